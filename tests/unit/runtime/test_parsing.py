"""A mistake on the command line of training is one line, with the option that was meant."""

import re

import pytest

from descore.runtime.wrong_use import WRONG_USE
from descore.train import command, main

MISTAKES = [
    ("--model.lr 1", r"--model\.lr is not .* ColdStartModule; did you mean --model\.optimization\.learning_rates\?"),
    ("--model.optimization.lora.rnk 1", r"did you mean --model\.optimization\.lora\.rank\?"),
    ("--modle.backbone tiny", r"did you mean --model\.backbone\?"),
    ("--trainer.max_step 1", r"did you mean --trainer\.max_steps\?"),
    ("--trainer.logger.save_dirr x", r"did you mean --trainer\.logger\.save_dir\?"),
    ("--resum auto", r"did you mean --resume\?"),
    ("--data.batchsize 3", r"not an option of RenderedPairDataModule; did you mean --data\.batch_size\?"),
    ("--data.train x.csv", r"--data\.train is one of --data data_modules\.preference\.PreferencePairDataModule"),
    ("--data data_modules.preference.PreferencePairDataModule --data.on_bad_row skip", r"mean --data\.on_bad\.row\?"),
    ("--data.render.teacher.habbits {}", r"did you mean --data\.render\.teacher\.habits\?"),
    ("--model.pretrained x", r"--model\.help descore\.modules\.cold_start\.ColdStartModule"),
    ("--data.batch_size many", r"--data\.batch_size: expected int, got many$"),
    ("--model.objective.loss foo", r"--model\.objective\.loss: expected one of 'bradley_terry', .*, got foo$"),
    ("-c conf/nothing.yaml", r"--config: .*conf/nothing\.yaml"),
    ("--model.class_path nothing.Module", r"--model: No module named 'nothing'"),
]


def mistake(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == 2
    said = capsys.readouterr().err
    (line,) = said.splitlines()
    return line


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES)
def test_a_mistake_is_one_line_that_says_what_was_meant(arguments, expected, capsys):
    line = mistake(f"fit -c conf/stage1.yaml {arguments}", capsys)
    assert line.startswith("descore.train: ")
    assert re.search(expected, line), line


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--model.thoughts", "{first_frames: 0}", "expected a whole number from 1 to 36000 for first_frames, got 0"),
        ("--model.reward_from", "{answer: {fields: {a: '(x'}}}", "answer.fields has '(x' for 'a'; expected a regular"),
    ],
)
def test_a_value_that_no_type_of_an_option_takes_is_one_line(option, value, expected, capsys, tmp_path):
    folder = ["--trainer.logger.save_dir", str(tmp_path), "--data.root", str(tmp_path / "data")]
    assert command(["fit", "-c", "conf/stage1.yaml", option, value, *folder]) == WRONG_USE
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert expected in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("key", "meant"), [("lr: 1", "--model.optimization.learning_rates"), ("vido: 1", "--model.video")]
)
def test_a_mistake_in_a_file_is_told_alike(key, meant, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(f"model:\n  init_args: {{{key}}}\n")
    assert f"did you mean {meant}?" in mistake(f"fit -c conf/stage1.yaml -c {file}", capsys)


@pytest.mark.parametrize("arguments", ["", "fit", "test -c conf/stage1.yaml", "predict -c conf/stage1.yaml", "fitt"])
def test_what_is_not_offered_or_missing_is_told(arguments, capsys):
    assert re.search("fit|-c conf/stage1.yaml", mistake(arguments, capsys))

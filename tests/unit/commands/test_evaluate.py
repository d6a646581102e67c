"""`descore evaluate` and `descore compare`, from the arguments to what is printed."""

import json
import shutil
from dataclasses import replace

import pytest

from descore.cli import main
from descore.evaluation.folder import load_evaluation
from descore.model.export import digest
from descore.model.trainable import make_trainable
from descore.scoring.scorer import Scorer
from tests.helpers.commands import refused
from tests.helpers.tables import with_gaps


class TestTheCommand:
    def run(self, *args: object) -> int:
        return main(["evaluate", *map(str, args), "--max-batch-tokens", "700", "--device", "cpu"])

    def test_prints_protocol_numbers_and_intervals(self, export, data, tmp_path, capsys):
        table, folder = data / "pairs.jsonl", tmp_path / "run"
        assert self.run("--model", export, "--table", table, "--output", folder) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert (
            "pointwise, reward from head, 1 thought per video at temperature 0, 4 to 6 frames at 2 per second"
            in printed
        )
        assert "256 to 1024 pixels per frame" in printed
        assert "without ties" in printed
        assert "0 of 6 videos failed" in printed
        spread = load_evaluation(folder).summary["dimensions"]["overall"]["hacking"]["spread"]["prompts"]
        assert (spread["num_groups"], spread["num_rewards"]) == (2, 6)
        assert f"spread in a prompt │ {spread['within']:.3g} {100 * spread['share']:.1f} % of all" in printed
        assert main(["compare", str(folder), str(folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        second = found["dimensions"]["overall"][1]
        assert (second["difference"], second["p_value"]) == (0.0, 1.0)

    def test_swapped_prompts_are_printed_and_on_the_page(self, export, data, tmp_path, capsys):
        args = ("--model", export, "--table", data / "pairs.jsonl", "--output", tmp_path / "run", "--no-thoughts")
        assert self.run(*args, "--swap-prompts") == 0
        printed = " ".join(capsys.readouterr().out.split())
        found = load_evaluation(tmp_path / "run").summary["dimensions"]["overall"]["hacking"]["swapped"]
        assert f"fall of the reward │ {found['fall']:.3g}" in printed
        assert "0 of 2 videos with swapped prompts failed" in printed
        assert main(["report", str(tmp_path / "run"), "--output", str(tmp_path / "page.html")]) == 0
        page = (tmp_path / "page.html").read_text()
        assert "Prompt swapped" in page
        assert f"{found['fall']:.3g}" in page

    def test_the_backbone_of_an_adapter_that_moved_is_named(self, build, backbones, data, tmp_path, capsys):
        model = build(max_thought_tokens=4)
        make_trainable(model, ("query", "head"))
        backbone = shutil.copytree(backbones["qwen3_vl"], tmp_path / "gone")
        model.processor.settings = replace(model.settings, backbone=str(backbone))
        model.save_pretrained(str(tmp_path / "export"), weights="adapter")
        shutil.rmtree(backbone)
        args = ("--model", tmp_path / "export", "--table", data / "pairs.jsonl", "--output", tmp_path / "run")
        refused(capsys, "holds an adapter, and its backbone is not at .*gone.*--backbone", "evaluate", *args)
        assert self.run(*args, "--backbone", backbones["qwen3_vl"], "--no-thoughts") == 0
        used = load_evaluation(tmp_path / "run").info["model_digest"]
        assert used == digest(tmp_path / "export", str(backbones["qwen3_vl"]))

    def test_a_failed_video_makes_the_exit_code_1(self, export, data, tmp_path, capsys):
        benchmark = with_gaps(data, tmp_path / "data")
        args = ("--model", export, "--table", benchmark.table, "--output", tmp_path / "run", "--no-thoughts")
        refused(capsys, "1 of 4 video files are missing", "evaluate", *args)
        assert self.run(*args, "--skip-missing") == 1
        assert "3 of 6 videos failed" in capsys.readouterr().out

    def test_a_shard_says_what_is_left(self, export, data, tmp_path, capsys):
        args = ("--model", export, "--table", data / "pairs.jsonl", "--output", tmp_path / "run", "--no-thoughts")
        assert self.run(*args, "--shard", "1/2") == 0
        assert "of 6 videos are scored" in capsys.readouterr().out
        reason = r"not finished: [24] of 6 videos are scored"
        refused(capsys, reason, "compare", tmp_path / "run", tmp_path / "run")
        assert self.run(*args, "--shard", "2/2") == 0
        assert "summary.json" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("args", "reason"),
        [
            (["--benchmark", "nothing"], "expected a benchmark of .*rendered_val"),
            ([], "expected --benchmark NAME or --table FILE"),
            (["--benchmark", "rendered_val", "--preset", "descore"], "--preset goes with --table alone"),
            (["--table", "gone.csv"], r"gone\.csv: expected the table"),
            (
                ["--table", "conf/stage1.yaml", "--preset", "mine"],
                "expected a preset of descore, .*videofeedback, got 'mine'",
            ),
        ],
    )
    def test_what_cannot_be_found_is_told_in_one_line(self, export, tmp_path, capsys, args, reason):
        told = refused(capsys, reason, "evaluate", "--model", export, "--output", tmp_path / "run", *args)
        assert told.count("\n") == 1
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("args", "reason"),
        [
            (["--num-thoughts", 3, "--no-thoughts"], "num_thoughts is 3, which contradicts scoring without thoughts"),
            (["--max-batch-tokens", -1], "number of tokens in a batch of at least 1, got -1"),
            (["--limit", 0], "expected a limit of at least 1, got 0"),
            (["--shard", "3/2"], "expected a shard I/N with 1 <= I <= N, got 3/2"),
            (["--temperature", "nan"], "temperature is nan; expected 0"),
            (["--device", "cuda:99"], "device 'cuda:99' is not there: expected one of cpu"),
        ],
    )
    def test_options_that_cannot_be_obeyed_are_refused(self, export, data, tmp_path, capsys, args, reason):
        table = data / "pairs.jsonl"
        refused(capsys, reason, "evaluate", "--model", export, "--table", table, "--output", tmp_path / "run", *args)
        assert not (tmp_path / "run").exists()

    def test_an_interrupt_says_how_to_resume(self, export, data, tmp_path, capsys, monkeypatch):
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        args = ("--model", export, "--table", data / "pairs.jsonl", "--output", tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(Scorer, "score_batch", interrupt)
            with pytest.raises(SystemExit) as ended:
                self.run(*args)
        assert ended.value.code == 130
        assert "interrupted; repeat the command to resume it" in capsys.readouterr().err
        assert self.run(*args) == 0

    def test_a_bad_row_stops_it_or_is_left_out_and_counted(self, export, data, tmp_path, capsys):
        table = data / "bad.jsonl"
        first, *rest = (data / "pairs.jsonl").read_text().splitlines()
        table.write_text("\n".join([first.replace('"preference": "A"', '"preference": "maybe"'), *rest]))
        args = ("--model", export, "--table", table, "--output", tmp_path / "run", "--no-thoughts")
        refused(capsys, r"bad\.jsonl, data row 1 .*'preference': expected A, B, tie.*got 'maybe'", "evaluate", *args)
        assert not (tmp_path / "run").exists()
        assert self.run(*args, "--on-bad-row", "skip") == 0
        assert "1 rows left out (expected A, B, tie, invalid)" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize("shard", ["5", "1/x", "1/2/3"])
    def test_a_shard_that_is_none_is_told_how_to_be_written(self, export, tmp_path, capsys, shard):
        with pytest.raises(SystemExit):
            self.run("--model", export, "--table", "t.csv", "--output", tmp_path / "run", "--shard", shard)
        assert f"expected I/N, such as 1/4 for the first of four, got '{shard}'" in capsys.readouterr().err

    def test_a_folder_that_is_none_is_refused(self, tmp_path, capsys):
        refused(capsys, "is not an output folder of `descore evaluate`", "compare", tmp_path, tmp_path)
        with pytest.raises(FileNotFoundError, match=r"evaluation\.json"):
            load_evaluation(tmp_path)

"""Plain checkpoints, read by a named protocol or a settings file."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from descore import Scorer
from descore.importing.plain import PROTOCOLS
from descore.importing.request import ImportRequest
from descore.importing.run import import_model
from descore.inputs.answers import said_values
from descore.inputs.settings import ModelSettings
from descore.inputs.typed_json import FileError
from descore.model.description import describe
from descore.model.reward_model import RewardModel
from descore.types import Thought
from descore.video.settings import VideoSettings
from tests.helpers.examples import make_frames
from tests.helpers.small_families import write_family
from tests.parity.plain import plain_sequence, stock
from tests.parity.test_imported import noise

TEMPLATE = "Judge it by the text: {text_prompt}"
SAID = (
    "<think>visual quality: 1 at first.</think>visual quality: 4; text-to-video alignment: 2, "
    "physical/common-sense consistency: 5"
)
RATIONALE = """# User Request Analysis
Text Rendering: none is asked for.
# Detailed Judgement
1. Text Faithfulness:
## Justification: As asked:
1. a circle. Not ## Score: 1 at first.
## Score: 3.5
2. Physical and Visual Quality:
## Justification: Blurred.
## Score: 2
3. Text Rendering:
## Justification: No text.
## Score: N/A
# Summary: Text Faithfulness: good.
"""
OLD = {"model.language_model.": "model.", "model.visual.": "visual."}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain checkpoint of Qwen2.5-VL, with the names of an old transformers."""
    folder = tmp_path_factory.mktemp("plain") / "source"
    write_family(folder, "qwen2_5_vl")
    state = load_file(folder / "model.safetensors")
    for new, old in OLD.items():
        state = {name.replace(new, old, 1) if name.startswith(new) else name: one for name, one in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def asked(source: Path, tmp_path: Path, **options: Any) -> ImportRequest:
    (tmp_path / "template.txt").write_text(TEMPLATE)
    defaults = {"protocol": "videoscore2", "template": str(tmp_path / "template.txt"), "license": "mit"}
    return ImportRequest("plain", str(source), tmp_path / "export", **defaults | options)


@torch.no_grad()
def test_videoscore2_is_the_likeliest_digit_times_its_share_at_temperature_07(source: Path, tmp_path: Path) -> None:
    import_model(asked(source, tmp_path))
    scorer = Scorer(str(tmp_path / "export"), device="cpu")
    frames = noise(12, 320, 320)
    (score,) = scorer.score([frames], "a red circle", fps=6, thought=SAID)
    assert score.error is None

    video = VideoSettings(2.0, 4, 768, 128 * 28 * 28, 768 * 28 * 28)
    plain = RewardModel.create(ModelSettings(str(source), TEMPLATE.replace("text_prompt", "prompt"), video=video))
    read = plain.processor.video_reader.sample("it", frames.permute(0, 2, 3, 1).numpy(), 6)
    prefix, thought = plain.processor.prefix("a red circle", read), plain.processor.thought(SAID)
    _, logits = plain_sequence(stock(plain.eval()), prefix, thought)
    ids = plain.processor.tokenizer.convert_tokens_to_ids(list("12345"))
    places = [place for place, token in enumerate(thought.token_ids) if token in ids][1:]  # without that of the thought
    expected = []
    for place in places:
        shares = (logits[len(prefix.input_ids) + place - 1, ids] / 0.7).softmax(-1)
        expected.append((shares.argmax() + 1).item() * shares.max().item())
    assert list(score.rewards.values()) == pytest.approx(expected, abs=1e-5)
    assert score.reward == pytest.approx(sum(expected), abs=1e-5)


def test_a_plain_checkpoint_is_used_up_too(source: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in source.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    state = load_file(copy / "model.safetensors")
    save_file(state | {"score.weight": torch.ones(1, 64)}, copy / "model.safetensors")
    with pytest.raises(FileError, match=r"extra score\.weight"):
        import_model(asked(copy, tmp_path))
    gone = "model.layers.1.mlp.up_proj.weight"
    save_file({name: one for name, one in state.items() if name != gone}, copy / "model.safetensors")
    with pytest.raises(FileError, match=r"missing model.language_model.layers.1.mlp.up_proj.weight"):
        import_model(asked(copy, tmp_path))


def test_a_settings_file_is_a_protocol(source: Path, tmp_path: Path) -> None:
    settings = {
        "backbone": "elsewhere/judge",
        "template": "Judge: {prompt}",
        "reward_from": "overall_score",
        "answer": {"fields": {"style": r"style: (\w+)"}, "words": {"Good": 0.9, "Bad": 0.05}},
    }
    (tmp_path / "judge.yaml").write_text(yaml.safe_dump(settings))
    origin = import_model(asked(source, tmp_path, protocol=str(tmp_path / "judge.yaml"), template=None))
    assert "judge.yaml" in origin.protocol
    described = describe(tmp_path / "export")
    assert described.settings.template == "Judge: {prompt}"
    assert described.settings.answer.words == {"Good": 0.9, "Bad": 0.05}
    assert described.settings.query_tokens == ()
    (score,) = Scorer(str(tmp_path / "export"), device="cpu").score(
        [noise(4, 64, 64)], "it", fps=2, thought="style: bad"
    )
    assert score.reward == pytest.approx(0.05)


def test_what_is_no_protocol_is_refused(source: Path, tmp_path: Path) -> None:
    for name in (None, "videoscore", "nowhere.yaml"):
        with pytest.raises(FileError, match=r"expected --protocol videoscore2, unifiedreward, .*, or a settings file"):
            import_model(asked(source, tmp_path, protocol=name))
    with pytest.raises(FileError, match=r"write the query of vs2_inference\.py to a file"):
        import_model(asked(source, tmp_path, template=None))
    with pytest.raises(ValueError, match="a protocol is for the layout plain"):
        import_model(ImportRequest("hpsv3", str(source), tmp_path / "export", protocol="videoscore2"))


@pytest.mark.parametrize(
    ("name", "text", "verdict"),
    [
        ("unifiedreward_think", "<think>Video 2 is better here.</think><answer>Video 1 is better</answer>", "A"),
        ("unifiedreward_think", "<think></think>\n<answer>\nVideo 2 is better\n</answer>", "B"),
        ("unifiedreward_flex", '{"cat": [{"cat_winner": "Video 1"}], "winner": "Video 2"}', "B"),
    ],
)
def test_two_videos_are_compared(name: str, text: str, verdict: str, source: Path, tmp_path: Path) -> None:
    import_model(asked(source, tmp_path, protocol=name))
    settings = describe(tmp_path / "export").settings
    assert settings.template == "{frames:1}{frames:2}Judge it by the text: {prompt}"
    assert (settings.reward_from, settings.video.sampler, settings.video.max_frames) == ("said_choice", "ends_floor", 8)
    assert settings.choice.said(text) == verdict
    assert list(settings.choice.words) == ["A", "B"]
    assert Scorer(str(tmp_path / "export"), device="cpu").model.processor.template.num_videos == 2


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("videoscore2", SAID, [4.0, 2.0, 5.0]),
        ("unifiedreward", "Alignment Score (1-4): 3\n**Final Score:** 8", [8.0]),
        ("unifiedreward", "Final Score: 10", [10.0]),
        (
            "unifiedreward2",
            "Alignment Score (1-5): 4.1250\nPhysics Score (1-5): 3.5\nStyle Score (1-5): 2.75",
            [4.125, 3.5, 2.75],
        ),
        ("rationalrewards", RATIONALE, [3.5, 2.0, math.nan]),
    ],
)
def test_each_protocol_reads_what_its_model_says(
    name: str, text: str, expected: list[float], source: Path, tmp_path: Path
) -> None:
    import_model(asked(source, tmp_path, protocol=name))
    described = describe(tmp_path / "export")
    assert said_values(text, described.settings.answer) == pytest.approx(expected, nan_ok=True)
    assert described.origin is not None
    assert described.origin.protocol == f"{name}: {PROTOCOLS[name].says}"


@pytest.mark.parametrize(
    ("name", "shown", "num_frames"), [("unifiedreward2", "{frames}", 16), ("unifiedreward_think", "", 8)]
)
def test_loose_pictures_are_those_of_the_published_code(
    name: str, shown: str, num_frames: int, source: Path, tmp_path: Path
) -> None:
    """Each frame is a picture of the processor's own area, all before the text: `process_vision_info` and the chat."""
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    (copy / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"longest_edge": 9216}}'
    )
    import_model(asked(copy, tmp_path, protocol=name))
    scorer = Scorer(str(tmp_path / "export"), device="cpu")
    processor, video = scorer.model.processor, noise(40, 96, 180)
    frames = processor.video_reader.sample("it", video.permute(0, 2, 3, 1).numpy(), 8)
    places = {16: [int(i * 40 / 16) for i in range(16)], 8: [int(i * 39 / 7) for i in range(8)]}
    assert list(frames.indices) == places[num_frames]
    # 96 x 180 is 1.875 times 9216: 96 / 1.369 = 70.1 and 131.5, both rounded down to 16.
    block = "<|vision_start|>" + "<|image_pad|>" * (4 * 8) + "<|vision_end|>"
    videos = [frames] if shown else [frames, frames]
    prefix = processor.prefix("a red circle", *videos)
    text = f"<|im_start|>user\n{block * num_frames * len(videos)}Judge it by the text: a red circle<|im_end|>\n"
    expected = processor.tokenizer.encode(f"{text}<|im_start|>assistant\n", add_special_tokens=False)
    assert prefix.input_ids.tolist() == expected


@torch.no_grad()
def test_two_videos_of_loose_pictures_are_compared_as_transformers_reads_them(source: Path, tmp_path: Path) -> None:
    """Probabilities of the two verdicts behind a thought, in both orders, against transformers' own forward."""
    import_model(asked(source, tmp_path, protocol="unifiedreward_think"))
    scorer = Scorer(str(tmp_path / "export"), device="cpu", reward_from="choice", thoughts=False)
    one, other = noise(9, 48, 64), noise(11, 64, 48)
    (found,) = scorer.compare([one], [other], "a red circle", fps=8)
    assert found.error is None
    processor, model = scorer.model.processor, stock(scorer.model)
    a, b = (processor.video_reader.sample("it", video.permute(0, 2, 3, 1).numpy(), 8) for video in (one, other))
    a_first, b_first = found.orders
    expected = [(a_first.p_a, a_first.p_b), (b_first.p_b, b_first.p_a)]
    for videos, read in zip(((a, b), (b, a)), expected, strict=True):
        prefix = processor.prefix("a red circle", *videos)
        lead = processor.tokenizer.encode("<answer>Video ", add_special_tokens=False)
        ids = [processor.tokenizer.encode(f"<answer>Video {digit}", add_special_tokens=False) for digit in "12"]
        assert [len(row) for row in ids] == [len(ids[0])] * 2
        shared = [one for one, two in zip(*ids, strict=True) if one == two]
        assert len(shared) >= len(lead)
        _, logits = plain_sequence(model, prefix, Thought(tuple(shared)))
        first, second = logits[-1, [row[len(shared)] for row in ids]].softmax(-1).tolist()
        assert read == pytest.approx((first, second), abs=1e-5)


def test_rationalrewards_is_the_mean_of_the_scores_that_apply(source: Path, tmp_path: Path) -> None:
    template = tmp_path / "rational.txt"
    template.write_text("Instruction: {request}\nGenerated Image <image>\nJudge it.")
    import_model(asked(source, tmp_path, protocol="rationalrewards", template=str(template)))
    assert (
        describe(tmp_path / "export").settings.template == "Instruction: {prompt}\nGenerated Image {frames}\nJudge it."
    )
    scorer = Scorer(str(tmp_path / "export"), device="cpu")
    scores = scorer.score([noise(6, 64, 64)] * 2, "it", fps=2, thought=[RATIONALE, RATIONALE.replace("3.5", "5")])
    assert scores[0].reward == pytest.approx((3.5 + 2.0) / 2)
    assert "text_faithfulness of the answer is '5'; expected a number from 1 to 4" in str(scores[1].error)
    assert len(scorer.model.processor.prefix("it", make_frames(1, 64, 64)).grids) == 1

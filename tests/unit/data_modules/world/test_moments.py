"""Videos in which one moment decides: what differs, what the table says of them, and what the model is shown."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_modules.moments import MomentPairDataModule
from data_modules.world.moments import FIRST, FPS, LAST, SECONDS, Moment, draw_moment, draw_moments, render_moments
from descore.answer import parse_answer, parse_scores
from descore.frame_tool.calls import read_call, split_turns, write_call
from descore.frame_tool.settings import FrameTool
from descore.inputs.processor import Processor
from descore.inputs.settings import ModelSettings
from descore.tables.pairs import read_pairs
from descore.thinking.conversation import begin
from descore.video.settings import VideoSettings
from descore.video.writer import write_video

CONF = Path(__file__).parents[4] / "conf/baselines/vr_thinker.yaml"
NUM_FRAMES = SECONDS * FPS


@pytest.fixture(scope="module")
def configured() -> tuple[VideoSettings, FrameTool]:
    """How the baseline reads a video."""
    options = yaml.safe_load(CONF.read_text())["model"]["init_args"]
    return VideoSettings(**options["video"]), FrameTool(**options["thoughts"])


@pytest.fixture(scope="module")
def processor(configured) -> Processor:
    video, tool = configured
    return Processor(ModelSettings("tiny", "Judge it: {prompt}", video=video, tool=tool))


@pytest.mark.parametrize("seed", range(4))
def test_a_right_and_a_wrong_video_differ_in_the_half_second_of_the_prompt_alone(seed, processor, tmp_path):
    """After encoding, decoding and resizing too: not one pixel of any other frame tells."""
    _, wrong = draw_moments(np.random.default_rng(seed))
    frames = []
    for shown in (wrong.asked, wrong.shown):
        path = tmp_path / f"{shown}.mp4"
        write_video(path, draw_moment(replace(wrong, shown=shown), seed, size=96), FPS, crf=0)
        frames.append(processor.read(str(path)).pixels)
    differs = (frames[0] != frames[1]).flatten(1).any(1).nonzero()[:, 0].tolist()
    assert differs == list(wrong.frames)
    assert len(differs) == FPS // 2
    assert f"At {wrong.second} seconds" in wrong.prompt


def test_the_first_frames_miss_every_moment(processor):
    pool = processor.video_reader.sample("drawn", np.zeros((NUM_FRAMES, 96, 96, 3), dtype=np.uint8), FPS)
    assert pool.indices == tuple(range(NUM_FRAMES)), "the numbers of a call are those of all frames"
    (first,) = begin(processor, "a cat", pool).shown
    moments = [replace(draw_moments(np.random.default_rng(0))[0], second=second) for second in range(FIRST, LAST + 1)]
    assert not set(first.indices) & {index for moment in moments for index in moment.frames}


def test_a_row_tells_the_truth_and_asks_for_the_frames_that_decide(tmp_path, configured):
    table = render_moments(tmp_path, "train", 12, size=32)
    _, tool = configured
    preferred = set()
    for row in map(json.loads, table.read_text().splitlines()):
        scores = [parse_scores(row[f"scores_{side}"]) for side in "ab"]
        assert sorted(score["subject"] for score in scores) == [1, 2]
        assert row["preference"] == ("A" if scores[0]["subject"] == 2 else "B")
        preferred.add(row["preference"])
        second = int(row["prompt"].split()[1])
        for side, score in zip("ab", scores, strict=True):
            call, answer = split_turns(row[f"cot_{side}"], tool)
            assert read_call(call, tool, NUM_FRAMES) == list(range(second * FPS - 2, second * FPS + 2))
            assert parse_answer(call + answer).scores == score
            asked = row["prompt"].split()[-1].rstrip(".")
            assert (f"{asked} {asked} fits" in answer) == (score["subject"] == 2)
    assert preferred == {"A", "B"}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    found = []
    for name, num_pairs, seed in (("one", 2, 0), ("more", 3, 0), ("other", 2, 1)):
        folder = render_moments(tmp_path / name, "val", num_pairs, seed, size=32).parent / "videos"
        found.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    one, more, other = found
    assert one.items() <= more.items()
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())
    assert render_moments(tmp_path / "one", "val", 2, size=32).is_file(), "what exists is not rendered again"


def test_thoughts_without_calls_are_the_same_but_for_them(tmp_path):
    modules = [MomentPairDataModule(root=str(tmp_path), num_train=1, num_val=1, calls=calls) for calls in (True, False)]
    modules[0].prepare_data()
    (calling,), (silent,) = (module._read(module.train, "train") for module in modules)
    assert calling == read_pairs(tmp_path / "train/pairs.jsonl").pairs[0]
    assert "tool_call" not in silent.a.thought + silent.b.thought
    second = int(calling.prompt.split()[1])
    call = write_call(list(range(second * FPS - 1, second * FPS + 3)))
    assert silent.a.thought == calling.a.thought.replace(call, "")


def test_a_moment_has_three_colours(tmp_path):
    """The colour before and after the moment is neither the asked nor the wrong one: it tells nothing."""
    for seed in range(20):
        right, wrong = draw_moments(np.random.default_rng(seed))
        assert right.prompt == wrong.prompt
        assert right.shown == right.asked == wrong.asked != wrong.shown
        for moment in (right, wrong):
            assert isinstance(moment, Moment)
            assert moment.scene.colour not in (right.asked, wrong.shown)

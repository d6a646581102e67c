"""Pairs for DPO: which videos are paired, and what the rows carry."""

import math
import random
from pathlib import Path

import pytest

from descore.selection.pairing import Candidate, choose_pairs, pair_rows, read_candidates
from descore.tables.faults import MissingColumn
from descore.tables.unscored import read_unscored
from descore.tables.writer import write_rows


def candidates(*rewards: float, prompt: str = "a cat") -> list[Candidate]:
    return [Candidate(prompt, f"/{index}.mp4", reward, {}) for index, reward in enumerate(rewards)]


def rewards_of(pairs):
    return [(a.reward, b.reward) for a, b in pairs]


def test_best_and_worst_then_second_best_and_second_worst():
    found = choose_pairs(candidates(1, 5, 3, 2, 4), max_per_prompt=9)
    assert rewards_of(found.pairs) == [(5, 1), (4, 2)]
    assert rewards_of(choose_pairs(candidates(1, 5, 3, 2, 4)).pairs) == [(5, 1)]


def test_ties_and_small_margins_are_no_pairs_and_are_counted():
    found = choose_pairs(candidates(1, 1, 1, 1), max_per_prompt=2)
    assert (found.pairs, found.num_close) == ([], 2)
    found = choose_pairs(candidates(0.0, 2.0, 1.0, 1.4), max_per_prompt=2, min_margin=0.5)
    assert (rewards_of(found.pairs), found.num_close) == ([(2.0, 0.0)], 1)


def test_a_margin_that_is_met_exactly_is_wide_enough():
    assert rewards_of(choose_pairs(candidates(0.5, 1.0), min_margin=0.5).pairs) == [(1.0, 0.5)]


def test_prompts_are_kept_apart_and_in_their_order():
    videos = [*candidates(1, 2, prompt="b"), *candidates(4, 3, prompt="a"), *candidates(9, prompt="c")]
    found = choose_pairs(videos)
    assert [(a.prompt, a.reward, b.reward) for a, b in found.pairs] == [("b", 2, 1), ("a", 4, 3)]
    assert found.num_prompts == 3


def test_a_video_that_is_listed_twice_counts_once():
    twice = [*candidates(1, 2), *candidates(1, 2)]
    assert rewards_of(choose_pairs(twice, max_per_prompt=2).pairs) == [(2, 1)]


def test_failed_videos_are_left_out_with_their_reasons():
    failed = Candidate("a cat", "/x.mp4", math.nan, {}, "x.mp4: cannot be opened")
    found = choose_pairs([failed, *candidates(1, 2)])
    assert (rewards_of(found.pairs), found.failed) == ([(2, 1)], ["x.mp4: cannot be opened"])


def test_equal_rewards_are_ordered_by_the_table_whatever_is_drawn():
    videos = [Candidate("p", f"/{i}.mp4", float(random.Random(i).randrange(3)), {}) for i in range(20)]
    assert choose_pairs(videos, max_per_prompt=5) == choose_pairs(list(videos), max_per_prompt=5)


def read(folder: Path, rows: list[dict], **options: str) -> list[Candidate]:
    write_rows(folder / "t.jsonl", rows)
    table = read_unscored(folder / "t.jsonl")
    return read_candidates(folder / "t.jsonl", table, [row.cells for row in table.rows], **options)


def test_every_further_column_is_carried_for_both_videos(tmp_path):
    rows = [
        {
            "prompt": "p",
            "video": "v/a.mp4",
            "seed": 7,
            "noise": [0.1, 0.2],
            "reward": 1.0,
            "thought": "long",
            "error": None,
        },
        {
            "prompt": "p",
            "video": "v/b.mp4",
            "seed": 8,
            "noise": [0.3, 0.4],
            "reward": 2.0,
            "thought": "long",
            "error": None,
        },
    ]
    (row,) = pair_rows(choose_pairs(read(tmp_path, rows)).pairs, tmp_path)
    assert row == {
        "prompt": "p",
        "video_chosen": "v/b.mp4",
        "video_rejected": "v/a.mp4",
        "reward_chosen": 2.0,
        "reward_rejected": 1.0,
        "margin": 1.0,
        "seed_chosen": 8,
        "seed_rejected": 7,
        "noise_chosen": [0.3, 0.4],
        "noise_rejected": [0.1, 0.2],
    }


def test_videos_are_named_relative_to_the_table_of_pairs(tmp_path):
    rows = [{"prompt": "p", "video": video, "reward": n} for n, video in enumerate(["v/a.mp4", "s3://bucket/b.mp4"])]
    (row,) = pair_rows(choose_pairs(read(tmp_path, rows)).pairs, tmp_path / "pairs")
    assert (row["video_chosen"], row["video_rejected"]) == ("s3://bucket/b.mp4", "../v/a.mp4")


def test_two_videos_of_a_row_have_their_own_columns_and_those_of_the_row(tmp_path):
    own = {"video_a": "a.mp4", "reward_a": 1.0, "seed_a": 1, "video_b": "b.mp4", "reward_b": 0.0, "seed_b": 2}
    a, b = read(tmp_path, [{"prompt": "p", "steps": 16, "thought_a": "x", "thought_b": "y"} | own])
    assert (a.reward, a.cells) == (1.0, {"steps": 16, "seed": 1})
    assert (b.reward, b.cells) == (0.0, {"steps": 16, "seed": 2})


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"reward": None}, "column 'reward': no usable label"),
        ({"reward": "good"}, "column 'reward': expected a number, got 'good'"),
        ({"reward": True}, "column 'reward': expected a number"),
        ({"reward": 1.0, "error": "a.mp4: broken"}, "a.mp4: broken"),
        ({"reward": 1.0, "prompt": " "}, "column 'prompt': expected text"),
        ({"reward": 1.0, "video": None}, "column 'video': expected text"),
    ],
)
def test_a_row_without_a_reward_is_a_failed_video(tmp_path, cells, reason):
    (one,) = read(tmp_path, [{"prompt": "p", "video": "a.mp4"} | cells])
    assert reason in one.error
    assert choose_pairs([one]).failed == [one.error]


def test_another_column_of_rewards(tmp_path):
    rows = [{"prompt": "p", "video": f"{n}.mp4", "reward": 0.0, "aesthetic": n} for n in range(2)]
    (pair,) = choose_pairs(read(tmp_path, rows, reward="aesthetic")).pairs
    assert [one.video[-5:] for one in pair] == ["1.mp4", "0.mp4"]
    with pytest.raises(MissingColumn, match=r"expected a column asthetic, found prompt.*did you mean aesthetic\?"):
        read(tmp_path, rows, reward="asthetic")

"""Tables as they are published."""

import json
import math
from pathlib import Path

import pytest

from descore.tables.pairs import read_pairs
from descore.types import Pair, Side
from tests.helpers.tables import SCORES, SCORES_CELL, labels, write_csv, write_jsonl

VIDEOALIGN: dict[str, object] = {"path_A": "a.mp4", "path_B": "b.mp4", "prompt": "p"}


class TestPresets:
    def test_videoalign(self, folder: Path) -> None:
        rows = [
            VIDEOALIGN | {"VQ": "A", "MQ": "same", "TA": "B", "MOS_A_VQ": 3.5, "MOS_B_VQ": 2},
            VIDEOALIGN | {"VQ": "invalid", "MQ": "B", "TA": "A"},
            VIDEOALIGN | {"VQ": "invalid", "MQ": "A", "TA": "invalid"},
        ]
        path = write_csv(folder / "t.csv", rows)
        table = read_pairs(path, preset="videoalign", dimensions=("TA", "VQ"))
        (first, second), (bad,) = table.pairs, table.rejected
        assert first.preference == (-1.0, 1.0)
        assert (first.a.mos[1], first.b.mos[1]) == (3.5, 2.0)
        assert second.preference[0] == 1.0
        assert math.isnan(second.preference[1])
        assert (bad.row, bad.column, bad.reason) == (3, "TA, VQ", "no usable label")
        assert table.num_rejected() == {"no usable label": 1}
        assert labels(read_pairs(path, preset="videoalign", dimensions=("MQ",))) == [(0.0,), (-1.0,), (1.0,)]

    def test_descore_stage1(self, folder: Path) -> None:
        row = {
            "videos": "['a.mp4', 'b.mp4']",
            "problem": "long",
            "prompt": "p",
            "CoT_A": "ta",
            "CoT_B": "tb",
            "GSB": "B",
        }
        (pair,) = read_pairs(write_csv(folder / "t.csv", [row]), preset="descore_stage1").pairs
        a, b = Side(str(folder / "a.mp4"), "ta"), Side(str(folder / "b.mp4"), "tb")
        assert pair == Pair("1", "p", a, b, (-1.0,))

    @pytest.mark.parametrize(
        "wrap", ["<answer>{}</answer>", "<answer>{{}}</answer>\n<answer>\n```json\n{}\n```\n</answer>"]
    )
    def test_descore_stage2(self, folder: Path, wrap: str) -> None:
        worse = dict.fromkeys(SCORES_CELL, "0")
        answer = {"video_1_scores": SCORES_CELL, "video_2_scores": worse, "gsb_result": "Video 1 is better"}
        row = {"videos": ["a.mp4", "b.mp4"], "problem": "p", "answer": wrap.format(json.dumps(answer))}
        (pair,) = read_pairs(write_jsonl(folder / "t.jsonl", [row]), preset="descore_stage2").pairs
        assert (pair.prompt, pair.preference, pair.a.scores) == ("p", (1.0,), SCORES)
        assert pair.b.scores == dict.fromkeys(SCORES, 0)

    @pytest.mark.parametrize(
        ("left", "right"),
        [("left_video", "right_video"), ("left_video_path", "right_video_path"), ("video_left", "video_right")],
    )
    def test_genai_bench(self, folder: Path, left: str, right: str) -> None:
        votes = ["leftvote", "rightvote", "tievote", "bothbad_vote"]
        rows = [{"prompt": "p", left: "a.mp4", right: "b.mp4", "vote_type": vote} for vote in votes]
        table = read_pairs(write_csv(folder / "t.csv", rows), preset="genai_bench")
        assert labels(table) == [(1.0,), (-1.0,), (0.0,), (0.0,)]
        assert table.pairs[0].b.video == str(folder / "b.mp4")

    def test_mj_bench_video(self, folder: Path) -> None:
        def row(overall: str, safety: str, discard: bool = False) -> dict[str, object]:
            cells = {"caption": "p", "video_0_path": "a.mp4", "video_1_path": "b.mp4", "overall_preference": overall}
            return cells | {"category_preference": {"Safety": safety}, "discard": discard}

        rows = [
            row("Video 1 Better", "Same"),
            row("Hard to judge", "Video 2 better"),
            row("Same", "Same", discard=True),
        ]
        (folder / "t.json").write_text(json.dumps(rows))
        overall = read_pairs(folder / "t.json", preset="mj_bench_video")
        assert labels(overall) == [(1.0,)]
        assert overall.pairs[0].a.video == str(folder / "a.mp4")
        assert overall.num_rejected() == {"no usable label": 2}
        assert [bad.column for bad in overall.rejected] == ["overall_preference", "discard"]
        both = read_pairs(folder / "t.json", preset="mj_bench_video", dimensions=("Safety", "overall"))
        assert both.pairs[0].preference == (0.0, 1.0)
        assert both.pairs[1].preference[0] == -1.0
        assert math.isnan(both.pairs[1].preference[1])

    @pytest.mark.parametrize("prompt", ["prompt", "caption"])
    def test_vision_reward_db(self, folder: Path, prompt: str) -> None:
        answers = ["video1", "video2", "tie"]
        rows = [{prompt: "p", "video1_path": "a.mp4", "video2_path": "b.mp4", "standard_answer": a} for a in answers]
        table = read_pairs(write_csv(folder / "t.csv", rows), preset="vision_reward_db")
        assert labels(table) == [(1.0,), (-1.0,), (0.0,)]
        assert table.pairs[0].prompt == "p"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"preset": "videoalgin"},
                "expected a preset among descore, .*; got 'videoalgin' \\(did you mean videoalign\\?\\)",
            ),
            ({"preset": "VideoAlign"}, "got 'VideoAlign' \\(did you mean videoalign\\?\\)"),
            ({"preset": "videoalign", "dimensions": ("VQ", "OVERAL")}, "'OVERAL'.* \\(did you mean Overall\\?\\)"),
            ({"preset": "videoalign", "dimensions": ("TA",), "ties": ["sane"]}, "got sane \\(did you mean same\\?\\)"),
            ({"preset": "videoalign"}, r"expected dimensions among VQ, MQ, TA, Overall; got \['overall'\]"),
            ({"dimensions": ()}, r"expected at least one dimension; got \[\]"),
            (
                {"preset": "videoalign", "dimensions": ("Overall",)},
                "expected a column Overall, got the columns path_A, ",
            ),
            ({"preset": "genai_bench"}, "expected a column left_video or left_video_path or video_left, got"),
            ({"on_bad_row": "raise"}, "expected on_bad_row 'error' or 'skip', got 'raise'"),
        ],
    )
    def test_unknown_names_list_what_exists(self, folder: Path, arguments: dict[str, object], message: str) -> None:
        path = write_csv(folder / "t.csv", [VIDEOALIGN | {"TA": "A"}])
        with pytest.raises(ValueError, match=message):
            read_pairs(path, **{"on_bad_row": "skip", **arguments})  # type: ignore[arg-type]

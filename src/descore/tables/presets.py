"""Layouts of tables by name: each preset turns a row into a pair or a rated video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from descore.tables.faults import NO_LABEL, BadCell
from descore.tables.locations import is_url
from descore.tables.row import NAN, Row
from descore.types import Pair, RatedVideo, Side


def _descore(row: Row, dimensions: Sequence[str]) -> Pair:
    def columns(stem: str) -> list[str]:
        named = [f"{stem}_{name}" for name in dimensions]
        return [stem] if len(named) == 1 and named[0] not in row.columns else named

    def thought(column: str) -> str:
        return row.text(column) if row.has(column) else ""

    def side(key: str) -> Side:
        return Side(
            video=row.video(f"video_{key}"),
            thought=thought(f"cot_{key}"),
            scores=row.scores(f"scores_{key}") if row.has(f"scores_{key}") else None,
            mos=row.numbers(columns(f"mos_{key}")),
            generator=row.name(f"generator_{key}"),
        )

    preference = row.labels(columns("preference"), {"A": 1.0, "B": -1.0, "tie": 0.0, "invalid": NAN})
    thoughts = (thought("thought_a_first"), thought("thought_b_first"))
    return Pair(row.id(), row.text("prompt"), side("a"), side("b"), preference, thoughts)


def _videoalign(row: Row, dimensions: Sequence[str]) -> Pair:
    a, b = (
        Side(
            row.video(f"path_{key}"),
            mos=row.numbers([f"MOS_{key}_{name}" for name in dimensions]),
            generator=row.name(f"{key}_model"),
        )
        for key in "AB"
    )
    preference = row.labels(dimensions, {"A": 1.0, "B": -1.0, "same": 0.0, "invalid": NAN})
    return Pair(row.id(), row.text("prompt"), a, b, preference)


def _descore_stage1(row: Row, dimensions: Sequence[str]) -> Pair:
    video_a, video_b = row.two_videos("videos")
    a, b = Side(video_a, row.text("CoT_A")), Side(video_b, row.text("CoT_B"))
    preference = row.labels(["GSB"], {"A": 1.0, "B": -1.0, "same": 0.0, "invalid": NAN})
    return Pair(row.id(), row.text("prompt", "problem"), a, b, preference)


def _descore_stage2(row: Row, dimensions: Sequence[str]) -> Pair:
    row = row.unfold("answer", ["video_1_scores", "video_2_scores", "gsb_result"])
    video_a, video_b = row.two_videos("videos")
    a = Side(video_a, scores=row.scores("answer.video_1_scores"))
    b = Side(video_b, scores=row.scores("answer.video_2_scores"))
    preference = row.labels(["answer.gsb_result"], {"Video 1 is better": 1.0, "Video 2 is better": -1.0})
    return Pair(row.id(), row.text("prompt", "problem"), a, b, preference)


def _genai_bench(row: Row, dimensions: Sequence[str]) -> Pair:
    a, b = (
        Side(row.video(f"{side}_video", f"{side}_video_path", f"video_{side}"), generator=row.name(f"{side}_model"))
        for side in ("left", "right")
    )
    preference = row.labels(["vote_type"], {"leftvote": 1.0, "rightvote": -1.0, "tievote": 0.0, "bothbad_vote": 0.0})
    return Pair(row.id(), row.text("prompt"), a, b, preference)


def _mj_bench_video(row: Row, dimensions: Sequence[str]) -> Pair:
    if str(row.cells.get("discard")).lower() == "true":
        raise BadCell("discard", row.cells["discard"], NO_LABEL)
    columns = ["overall_preference" if name == "overall" else f"category_preference.{name}" for name in dimensions]
    if columns != ["overall_preference"]:
        row = row.unfold("category_preference", [name for name in dimensions if name != "overall"])
    # Labels count from 1, columns from 0: "Video 1" is the video in video_0_path.
    legal = {"Video 1 better": 1.0, "Video 2 better": -1.0, "Same": 0.0, "Hard to judge": NAN}
    a, b = Side(row.video("video_0_path")), Side(row.video("video_1_path"))
    return Pair(row.id(), row.text("caption"), a, b, row.labels(columns, legal))


def _vision_reward_db(row: Row, dimensions: Sequence[str]) -> Pair:
    a, b = Side(row.video("video1_path")), Side(row.video("video2_path"))
    preference = row.labels(["standard_answer"], {"video1": 1.0, "video2": -1.0, "tie": 0.0})
    return Pair(row.id(), row.text("prompt", "caption"), a, b, preference)


def _worldreward_bench(row: Row, dimensions: Sequence[str]) -> Pair:
    row = row.unfold("label", dimensions).unfold("left", ["video", "model"]).unfold("right", ["video", "model"])
    a, b = (Side(row.video(f"{side}.video"), generator=row.name(f"{side}.model")) for side in ("left", "right"))
    # The command of the camera is part of the request, and the only text that says what `action` is judged by.
    prompt = f"{row.text('input_caption')}\nCamera: {', '.join(row.texts('actions'))}"
    legal = {"left": 1.0, "right": -1.0, "tie": 0.0}
    return Pair(row.id("pair_id"), prompt, a, b, row.labels([f"label.{name}" for name in dimensions], legal))


def _descore_videos(row: Row, dimensions: Sequence[str]) -> RatedVideo:
    named = [f"mos_{name}" for name in dimensions]
    columns = ["mos"] if len(named) == 1 and named[0] not in row.columns else named
    side = Side(row.video("video"), mos=row.ratings(columns), generator=row.name("generator"))
    return RatedVideo(row.id(), row.text("prompt"), side)


def _videofeedback(row: Row, dimensions: Sequence[str]) -> RatedVideo:
    link = row.text("video_path", "video link")
    # The table holds links; the user downloads the videos into the folder `videos` beside the table.
    path = f"videos/{link.rpartition('/')[2]}" if is_url(link) else link
    side = Side(row.path("video_path" if row.has("video_path") else "video link", path), mos=row.ratings(dimensions))
    return RatedVideo(row.id(), row.text("prompt", "text prompt"), side)


@dataclass(frozen=True, slots=True)
class Preset:
    """Layout of a table.

    Attributes:
        read: Function that turns a row, given the names of the reward dimensions, into a `Pair` or a `RatedVideo`.
        dimensions: Names of the dimensions that the layout has labels for; empty if the author of a table chooses them.
    """

    read: Callable[[Row, Sequence[str]], Any]
    dimensions: tuple[str, ...] = ("overall",)


_MJ_CATEGORIES = ("Alignment", "Safety", "Fineness", "Coherence & Consistency", "Bias")

PRESETS = {
    "descore": Preset(_descore, dimensions=()),
    "descore_stage1": Preset(_descore_stage1),
    "descore_stage2": Preset(_descore_stage2),
    "genai_bench": Preset(_genai_bench),
    "mj_bench_video": Preset(_mj_bench_video, ("overall", *_MJ_CATEGORIES)),
    "videoalign": Preset(_videoalign, ("VQ", "MQ", "TA", "Overall")),
    "vision_reward_db": Preset(_vision_reward_db),
    "worldreward_bench": Preset(_worldreward_bench, ("action", "appearance", "motion")),
}
"""Layouts of pairs, by name."""

_VIDEOFEEDBACK = (
    "visual quality",
    "temporal consistency",
    "dynamic degree",
    "text-to-video alignment",
    "factual consistency",
)

VIDEO_PRESETS = {
    "descore_videos": Preset(_descore_videos, dimensions=()),
    "videofeedback": Preset(_videofeedback, _VIDEOFEEDBACK),
}
"""Layouts of single videos with opinion scores, by name."""

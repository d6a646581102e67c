"""The pairs of one or more evaluations that a page shows: their choice, frames, thoughts and rewards."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from descore.evaluation.folder import Evaluation, reward_of
from descore.report.attention import Attended, attend
from descore.report.page import Viewer
from descore.scoring.folder import plain
from descore.types import Frames
from descore.video.checks import VideoError
from descore.video.frames import VideoReader
from descore.video.isolation import IsolatedReader
from descore.video.settings import VideoSettings

_Attention = dict[tuple[int, int], Attended]  # by the number of the run, and the index of the video in it

_SHARES = {"errors": 2, "failed": 1, "others": 1}
"""Shares of each kind of pair in a page; what one kind does not use goes to the next."""


def browse(
    runs: Mapping[str, Evaluation],
    *,
    num_pairs: int = 40,
    num_frames: int = 6,
    max_pixels: int = 36_000,
    quality: int = 62,
    attention: bool = False,
    device: str | None = None,
    backbone: str | None = None,
) -> Viewer:
    """Choose the pairs of a page, and read the frames of their videos.

    A pair that several evaluations of one benchmark share is shown once, with the calls of all of them. Half of the
    pairs are errors, largest wrong margin first, in units of the evaluation's root mean square margin. A quarter are
    pairs with a failed video. The rest are pairs called right, largest margin first.

    Args:
        runs: Evaluations by the name that the page gives them.
        num_pairs: Largest number of pairs to show.
        num_frames: Number of frames per video, an even number.
        max_pixels: Largest number of pixels of a frame.
        quality: Quality of the WebP images of the frames, from 0 to 100.
        attention: Whether to measure what the query tokens attend to, which loads the model of each evaluation.
        device: Device to measure on; the GPU if there is one, or else the CPU, if not given.
        backbone: Hub id or folder of an adapter's backbone, if it is not where the exported folder says.

    Raises:
        ValueError: If there is no evaluation, or its attention cannot be measured, see `attend`.
    """
    if not runs:
        raise ValueError("expected at least one evaluation to browse, got none")
    entries = _collect(runs)
    chosen = _choose(list(entries.values()), num_pairs)
    settings = VideoSettings(fps=1000, min_frames=1, max_frames=num_frames, min_pixels=1, max_pixels=max_pixels)
    videos = _Videos(IsolatedReader(VideoReader(settings, factor=2, even=2), seconds=60.0, memory_gb=4.0), quality)
    attended = _attend(runs, chosen, device=device, backbone=backbone) if attention else {}
    pairs = [_pair_of(entry, videos, attended) for entry in chosen]
    data = {
        "runs": [{"name": name, "benchmark": run.info["benchmark"]} for name, run in runs.items()],
        "videos": videos.found,
        "pairs": pairs,
    }
    counts = [Counter(entry.kind for entry in found) for found in (chosen, entries.values())]
    kinds = {kind: (counts[0][kind], counts[1][kind]) for kind in _SHARES}
    return Viewer(data, len(pairs), len(entries), kinds)


def judged_dimension(run: Evaluation) -> str:
    """Return the reward dimension that a page judges pairs by: "overall" if the run has it, or else the first one."""
    dimensions: list[str] = run.info["dimensions"]
    return next((name for name in dimensions if name.lower() == "overall"), dimensions[0])


def key_of(run: Evaluation, pair: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the key that identifies a pair across evaluations: benchmark, id, prompt and both videos."""
    videos = (run.videos[pair[side]]["video"] for side in ("a", "b"))
    return (run.info["benchmark"], pair["id"], pair["prompt"], *videos)


@dataclass(frozen=True, slots=True)
class _Call:
    """One evaluation's call of a pair; `wrongness` is nan without a margin or a preference."""

    run: int
    evaluation: Evaluation
    pair: Mapping[str, Any]
    margin: float
    verdict: str
    wrongness: float


@dataclass(slots=True)
class _Entry:
    """A pair, and the calls of all evaluations that have it."""

    calls: list[_Call] = field(default_factory=list)

    @property
    def wrongness(self) -> float:
        return max((call.wrongness for call in self.calls if not math.isnan(call.wrongness)), default=-math.inf)

    @property
    def kind(self) -> str:
        verdicts = {call.verdict for call in self.calls}
        return "errors" if "wrong" in verdicts else "failed" if "failed" in verdicts else "others"


def _collect(runs: Mapping[str, Evaluation]) -> dict[tuple[str, ...], _Entry]:
    entries: dict[tuple[str, ...], _Entry] = {}
    for number, run in enumerate(runs.values()):
        dimension = judged_dimension(run)
        margins, preferences = run.margins(dimension), run.preferences(dimension)
        scale = _root_mean_square(margins.tolist())
        for pair, margin, preference in zip(run.pairs, margins.tolist(), preferences.tolist(), strict=True):
            verdict = _verdict(margin, preference)
            wrongness = -preference * margin / scale if verdict in {"right", "wrong"} else math.nan
            call = _Call(number, run, pair, margin, verdict, wrongness)
            entries.setdefault(key_of(run, pair), _Entry()).calls.append(call)
    return entries


def _root_mean_square(margins: Iterable[float]) -> float:
    squares = [margin**2 for margin in margins if not math.isnan(margin)]
    return math.sqrt(sum(squares) / len(squares)) if any(squares) else 1.0


def _verdict(margin: float, preference: float) -> str:
    if math.isnan(margin):
        return "failed"
    if math.isnan(preference):
        return "unlabelled"
    if preference == 0:
        return "tie"
    return "right" if margin * preference > 0 else "wrong"


def _choose(entries: list[_Entry], num_pairs: int) -> list[_Entry]:
    """Choose pairs by the shares of their kinds, and return them with the largest wrong margin first."""
    by_kind = {kind: [entry for entry in entries if entry.kind == kind] for kind in _SHARES}
    by_kind["errors"].sort(key=lambda entry: -entry.wrongness)
    by_kind["others"].sort(key=lambda entry: (math.isinf(entry.wrongness), entry.wrongness))
    room = {kind: num_pairs * share // sum(_SHARES.values()) for kind, share in _SHARES.items()}
    taken = {kind: min(room[kind], len(found)) for kind, found in by_kind.items()}
    for kind, found in by_kind.items():
        taken[kind] += min(num_pairs - sum(taken.values()), len(found) - taken[kind])
    chosen = [entry for kind, found in by_kind.items() for entry in found[: taken[kind]]]
    return sorted(chosen, key=lambda entry: -entry.wrongness)


def _attend(runs: Mapping[str, Evaluation], chosen: Iterable[_Entry], **options: str | None) -> _Attention:
    """Measure the attention of each evaluation's model, one after the other, on the videos of the chosen pairs."""
    calls = [call for entry in chosen for call in entry.calls]
    found: _Attention = {}
    for number, (name, run) in enumerate(runs.items()):
        indices = dict.fromkeys(call.pair[side] for call in calls if call.run == number for side in "ab")
        found |= {(number, index): one for index, one in attend(name, run, indices, **options).items()}
    return found


class _Videos:
    """Frames of each video file as images; a file that several pairs show is read once."""

    def __init__(self, decoder: IsolatedReader[Frames], quality: int) -> None:
        self.found: list[dict[str, Any]] = []
        self._decoder, self._quality = decoder, quality
        self._indices: dict[str, int] = {}
        self._sizes: dict[int, tuple[int, int]] = {}

    def heat_maps(self, video: int, attended: Attended) -> list[str]:
        """Draw the attention to each frame of a video, by its index in `found`; empty if it cannot be shown."""
        times = self.found[video].get("times", [])
        return [attended.heat_map(seconds, self._sizes[video]) for seconds in times]

    def index_of(self, path: str, name: str) -> int:
        """Return the index of a file in `found`, and read it if it is new."""
        if path not in self._indices:
            self._indices[path] = len(self.found)
            self.found.append({"name": name} | self._read(path))
        return self._indices[path]

    def _read(self, path: str) -> dict[str, Any]:
        try:
            frames = self._decoder(path)
        except VideoError as error:
            return {"error": error.reason}
        self._sizes[len(self.found)] = (frames.pixels.shape[3], frames.pixels.shape[2])
        times = [round(time, 2) for time in frames.seconds]
        return {"frames": self._draw(frames), "times": times, "seconds": frames.num_source_frames / frames.source_fps}

    def _draw(self, frames: Frames) -> list[str]:
        pictures = []
        for pixels in frames.pixels:
            file = io.BytesIO()
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, "WEBP", quality=self._quality, method=6)
            pictures.append("data:image/webp;base64," + base64.b64encode(file.getvalue()).decode())
        return pictures


def _pair_of(entry: _Entry, videos: _Videos, attended: _Attention) -> dict[str, Any]:
    """Return everything that the page shows of a pair, as plain JSON values."""
    first = entry.calls[0]
    run, pair = first.evaluation, first.pair
    dimension = judged_dimension(run)
    sides = [_side_of(run, pair, side, videos) for side in ("a", "b")]
    return {
        "id": pair["id"],
        "benchmark": run.info["benchmark"],
        "prompt": pair["prompt"],
        "dimension": dimension,
        "label": pair["preference"][dimension],
        "preference": pair["preference"],
        "sides": sides,
        "calls": [
            {
                "run": call.run,
                "verdict": call.verdict,
                "margin": plain(call.margin),
                "wrongness": plain(call.wrongness),
                "sides": [
                    _said_of(call, key) | _attention_of(attended.get((call.run, call.pair[key])), side["video"], videos)
                    for key, side in zip("ab", sides, strict=True)
                ],
            }
            for call in entry.calls
        ],
    }


def _side_of(run: Evaluation, pair: Mapping[str, Any], side: str, videos: _Videos) -> dict[str, Any]:
    video = run.videos[pair[side]]
    return {
        "video": videos.index_of(run.path_of(pair[side]), video["video"]),
        "generator": video["generator"],
        "annotated": pair[f"scores_{side}"],
        "mos": {name: value for name, value in video["mos"].items() if value is not None},
    }


def _attention_of(attended: Attended | None, video: int, videos: _Videos) -> dict[str, Any]:
    if attended is None:
        return {}
    return {"attention": {"shares": attended.shares, "maps": videos.heat_maps(video, attended)}}


def _said_of(call: _Call, side: str) -> dict[str, Any]:
    """Return what a run says of a video of a pair: its score, or what the comparison with this video first says."""
    run = call.evaluation
    if not run.is_pairwise:
        return _score_of(run, call.pair[side])
    found = run.comparisons[run.pairs.index(dict(call.pair))] or {"orders": [], "error": "not compared yet"}
    shown = {"measure": f"P({side.upper()} better)", "reward": found.get(f"p_{side}"), "p_tie": found.get("p_tie")}
    order = found["orders"]["ab".index(side)] if found["orders"] else {"thoughts": [], "num_thought_tokens": []}
    thoughts, lengths = order["thoughts"] or [""], order["num_thought_tokens"] or [0]
    shown |= {"thought": thoughts[0], "num_thoughts": len(thoughts), "num_thought_tokens": lengths[0]}
    empty = dict.fromkeys(("dimension_scores", "overall_score", "reward_std"))
    return shown | empty | {"truncated": False, "error": found["error"]}


def _score_of(run: Evaluation, index: int) -> dict[str, Any]:
    score, dimension = run.scores[index], judged_dimension(run)
    if score is None:
        return {"reward": None, "error": "not scored yet"}
    kept = ("thought", "dimension_scores", "overall_score", "num_thought_tokens", "truncated", "reward_std", "error")
    reward = plain(reward_of(score, dimension))
    return {"reward": reward, "num_thoughts": len(score["each"]) or 1} | {name: score[name] for name in kept}

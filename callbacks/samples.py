"""Validation pairs in TensorBoard: texts and frames of some pairs, and histograms of all rewards."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import interpolate, pad

from callbacks.tensorboard import (
    PREFERENCES,
    by_name,
    escape,
    order_suffix,
    reward_names,
    tell_without_tensorboard,
    tensorboard_writer,
)
from descore.answer import NOT_ASKED, AnswerError, parse_answer
from descore.types import DIMENSIONS, DimensionScores, Frames, Group, PairBatch, Side

READINGS = {"teacher_thought": "teacher's thought", "no_thought": "no thought", "own_thought": "own thought"}
UNKNOWN = "?"
GAP = 2  # white pixels between frames
MIN_WIDTH = 400
"""Least width of an image with text, in pixels."""

FONT_SIZE = 14


class Samples(Callback):
    """Writes the first pairs of every validation table to TensorBoard, and histograms of all rewards and margins.

    Tags are `samples/<table>/text/<i>`, `samples/<table>/frames/<i>`, `samples/<table>/rewards` and
    `samples/<table>/margins`. A margin is positive where the preferred video has the higher reward. The histograms show
    the rewards that the headline accuracy is computed from. On several devices, rank 0 shows its part of the pairs.

    Args:
        num_pairs: Number of pairs shown per validation table.
        num_frames: Number of frames shown per video, evenly spread over those that the model sees.
        max_height: Largest height of a shown frame, in pixels; taller frames are scaled down.
    """

    def __init__(self, num_pairs: int = 4, num_frames: int = 8, max_height: int = 128) -> None:
        self.num_pairs = num_pairs
        self.num_frames = num_frames
        self.max_height = max_height

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say that the sampled pairs are left out where there is no TensorBoardLogger; a fast_dev_run needs none."""
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            tell_without_tensorboard(trainer, "sampled pairs")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the collected rewards and the number of pairs shown."""
        self._num_shown: Counter[str] = Counter()
        self._rewards: defaultdict[str, list[Tensor]] = defaultdict(list)
        self._preference: defaultdict[str, list[Tensor]] = defaultdict(list)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PairBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the rewards, and write pairs until `num_pairs` of the table are shown."""
        if (writer := tensorboard_writer(trainer)) is None:
            return
        table: str = trainer.datamodule.val_names[dataloader_idx]  # type: ignore[attr-defined]
        system: Any = pl_module
        if system.headline in outputs["rewards"]:
            self._rewards[table].append(outputs["rewards"][system.headline])
            self._preference[table].append(batch.preference)
        for index in range(min(len(batch.pairs), self.num_pairs - self._num_shown[table])):
            number, step = self._num_shown[table], trainer.global_step
            text = _describe(batch, outputs, index, reward_names(pl_module), order_suffix(pl_module))
            writer.add_text(f"samples/{table}/text/{number}", text, step)
            if batch.frames:
                videos = batch.frames[index], batch.frames[index + len(batch.pairs)]
                grid = image_grid(*videos, num_frames=self.num_frames, max_height=self.max_height)
                image = caption(grid, *_captions(batch, outputs, index, system.headline, reward_names(pl_module)))
                writer.add_image(f"samples/{table}/frames/{number}", image, step)
            self._num_shown[table] += 1

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the histograms of rewards and margins."""
        if (writer := tensorboard_writer(trainer)) is None:
            return
        for table, batches in self._rewards.items():
            rewards, preference = torch.cat(batches, 1).float().cpu(), torch.cat(self._preference[table]).cpu()
            margins = (rewards[0] - rewards[1]) * preference
            for index, name in enumerate(names := reward_names(pl_module)):
                suffix = f"/{name}" if len(names) > 1 else ""
                decided = margins[:, index][preference[:, index].nan_to_num() != 0]
                for kind, values in (("rewards", rewards[..., index].flatten()), ("margins", decided)):
                    if len(finite := values[values.isfinite()]):
                        writer.add_histogram(f"samples/{table}/{kind}{suffix}", finite, trainer.global_step)


def image_grid(a: Frames, b: Frames, *, num_frames: int, max_height: int) -> Tensor:
    """Arrange the frames of two videos in two rows on white, video A above video B.

    Args:
        a: Frames of video A.
        b: Frames of video B.
        num_frames: Number of frames shown per video, evenly spread.
        max_height: Largest height of a frame in pixels; taller frames are scaled down.

    Returns:
        RGB image, `[3, H, W]` uint8.

    >>> frames = Frames(torch.zeros(4, 3, 8, 10, dtype=torch.uint8), (0, 1, 2, 3), 2.0, 4)
    >>> image_grid(frames, frames, num_frames=2, max_height=8).shape
    torch.Size([3, 20, 24])
    """
    rows = [_row(frames.pixels, num_frames, max_height) for frames in (a, b)]
    width = max(row.shape[2] for row in rows)
    return torch.cat([pad(row, (0, width - row.shape[2]), value=255) for row in rows], 1)


def caption(grid: Tensor, *lines: str) -> Tensor:
    """Write lines of text above an image, which grows to the width that they need.

    Args:
        grid: RGB image, `[3, H, W]` uint8.
        lines: Lines of text; long ones are broken.

    Returns:
        RGB image, `[3, H + h, max(W, MIN_WIDTH)]` uint8.
    """
    width = max(grid.shape[2], MIN_WIDTH)
    font = ImageFont.load_default(FONT_SIZE)
    per_line = int(width / font.getlength("n"))
    broken = [part for line in lines for part in wrap(line, per_line) or [""]]
    canvas = Image.new("RGB", (width, len(broken) * (FONT_SIZE + 4) + 4), "white")
    ImageDraw.Draw(canvas).multiline_text((2, 2), "\n".join(broken), fill="black", font=font, spacing=4)
    text = torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(canvas.height, width, 3)
    return torch.cat([text.permute(2, 0, 1), pad(grid, (0, width - grid.shape[2]), value=255)], 1)


def _captions(
    batch: PairBatch, outputs: dict[str, Any], index: int, headline: str, names: Sequence[str]
) -> tuple[str, str, str]:
    """Return what stands above the frames of a pair: the prompt, the preference, and the rewards of both videos."""
    pair = batch.pairs[index]
    reading = headline if headline in outputs["rewards"] else next(iter(outputs["rewards"]), None)
    preferred = by_name(names, [PREFERENCES.get(value, "unusable") for value in pair.preference])
    if reading is None:
        return pair.prompt, f"preferred: {preferred}", "A above, B below"
    rewards = outputs["rewards"][reading][:, index].tolist()
    a, b = (by_name(names, [f"{value:.3f}" for value in values]) for values in rewards)
    return pair.prompt, f"preferred: {preferred}", f"A above: reward {a}. B below: reward {b} ({READINGS[reading]})"


def _row(pixels: Tensor, num_frames: int, max_height: int) -> Tensor:
    """Arrange frames in a row: [T, 3, H, W] uint8 -> [3, h + gap, num_frames * (w + gap)] uint8."""
    shown = torch.linspace(0, len(pixels) - 1, min(num_frames, len(pixels))).round().long()
    pixels = pixels[shown]
    height, width = pixels.shape[2:]
    if height > max_height:
        size = (max_height, max(1, round(width * max_height / height)))
        pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
    return pad(pixels, (0, GAP, 0, GAP), value=255).permute(1, 2, 0, 3).flatten(2)


def _describe(batch: PairBatch, outputs: dict[str, Any], index: int, names: Sequence[str], order: str = "") -> str:
    """Format a pair as Markdown: the prompt, the label, and one column per video; two videos have one per order."""
    pair = batch.pairs[index]
    columns = []
    sides = [replace(side, thought=text) for side, text in zip((pair.a, pair.b), pair.thoughts, strict=True)]
    for row, side in enumerate(sides if order else (pair.a, pair.b)):
        rewards = {READINGS[mode]: values[row, index].tolist() for mode, values in outputs["rewards"].items()}
        group = outputs["groups"][row * len(batch.pairs) + index] if outputs["groups"] else None
        columns.append(_column(side, rewards, group, names))
    preferred = by_name(names, [PREFERENCES.get(value, "unusable") for value in pair.preference])
    rows = [f"| {label} | {columns[0][label]} | {columns[1][label]} |" for label in columns[0]]
    head = [f"**Prompt** {escape(pair.prompt)}", f"**Preferred** {preferred}"]
    title = f"| {escape(pair.id)} | A{order} | B{order} |"
    return "\n\n".join([*head, "\n".join([title, "|---|---|---|", *rows])])


def _column(side: Side, rewards: dict[str, list[float]], group: Group | None, names: Sequence[str]) -> dict[str, str]:
    """Return the cells of one video's column by label."""
    cells = {
        f"reward, {reading}": by_name(names, [f"{value:.3f}" for value in values])
        for reading, values in rewards.items()
    }
    own = _own_scores(group)
    for name in DIMENSIONS:
        cells[f"{name}, own thought / annotated"] = f"{_score(own, name)} / {_score(side.scores, name)}"
    cells["teacher's thought"] = escape(side.thought)
    if group is not None:
        cells["own thought"] = escape(group.texts[0]) + ("" if group.thoughts[0].closed else " **(cut)**")
    return cells


def _own_scores(group: Group | None) -> DimensionScores | None:
    try:
        return parse_answer(group.texts[0]).scores if group else None
    except AnswerError:
        return None


def _score(scores: DimensionScores | None, name: str) -> str:
    if scores is None:
        return UNKNOWN
    return NOT_ASKED if scores[name] is None else str(scores[name])

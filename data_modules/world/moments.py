"""Long videos in which one moment decides: only around the second that the prompt names are they right or wrong.

Outside of that half second, a right video and a wrong one of the same draws are equal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_modules.world.drawing import NARROW, draw
from data_modules.world.rendering import SIDES, fingerprint, render_job, video_name, write_once
from data_modules.world.scene import VALUES, Scene, draw_scene
from descore.answer import Answer, overall_score, write_thought
from descore.frame_tool.calls import write_call
from descore.seeding import fold, uniform
from descore.types import DIMENSIONS, Pair, Side

SECONDS, FPS, WINDOW = 8, 8, 4
"""Length of a video, its frame rate, and the number of frames around the moment that decide."""

MOMENTS_VERSION = 1
"""Version of the videos and the table. Raise it when they change; data of another version is rendered again."""

FIRST, LAST = 1, SECONDS - 1
"""First and last second at which something may be asked for."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a prompt asks for at a moment, and what a video shows.

    Attributes:
        scene: What the video shows before and after the moment.
        second: The moment, in whole seconds after the start.
        asked: Colour that the subject is to have then.
        shown: Colour that it has then.
    """

    scene: Scene
    second: int
    asked: str
    shown: str

    @property
    def frames(self) -> range:
        """Indices of the frames that decide.

        >>> Moment(draw_scene(np.random.default_rng(0)), 5, "green", "red").frames
        range(38, 42)
        """
        middle = self.second * FPS
        return range(middle - WINDOW // 2, middle + WINDOW // 2)

    @property
    def prompt(self) -> str:
        """Text of the prompt."""
        return f"At {self.second} seconds the {self.scene.shape} is {self.asked}."

    @property
    def scores(self) -> dict[str, int | None]:
        """Scores of the dimensions, of which the prompt asks for the subject alone."""
        return dict.fromkeys(DIMENSIONS) | {"subject": 2 if self.shown == self.asked else 1}

    def thought(self, call: str) -> str:
        """Write the exact thought about the video, with a call of a tool before it says what is shown.

        >>> moment = Moment(replace(draw_scene(np.random.default_rng(0)), shape="ring"), 5, "green", "red")
        >>> print(moment.thought("").partition("</think>")[0])
        <think>Expect: ring, green.
        Shown: ring, red.
        Compare: subject ring ring fits, green red wrong.
        """
        shape, fits = self.scene.shape, "fits" if self.shown == self.asked else "wrong"
        compared = f"subject {shape} {shape} fits, {self.asked} {self.shown} {fits}"
        think = f"Expect: {shape}, {self.asked}.\n{call}Shown: {shape}, {self.shown}.\nCompare: {compared}."
        return write_thought(think, Answer(self.scores, overall_score(self.scores)))


def draw_moments(rng: np.random.Generator) -> tuple[Moment, Moment]:
    """Draw a prompt and what two videos show for it: the first one is right, and the second one wrong."""
    asked, wrong, before, other = rng.permutation(VALUES["colour"])[:4].tolist()
    second, shape = int(rng.integers(FIRST, LAST + 1)), VALUES["shape"][rng.integers(len(VALUES["shape"]))]
    scenes = [replace(draw_scene(rng), shape=shape, colour=colour, light="day") for colour in (before, other)]
    return Moment(scenes[0], second, asked, asked), Moment(scenes[1], second, asked, wrong)


def draw_moment(moment: Moment, seed: int, *, size: int) -> NDArray[np.uint8]:
    """Draw all frames of a video, `[T, size, size, 3]` uint8 RGB.

    Args:
        moment: What it shows.
        seed: Seed of what the scene leaves open.
        size: Width and height in pixels.
    """
    scenes = (moment.scene, replace(moment.scene, colour=moment.shown))
    frames, then = (
        draw(scene, np.random.default_rng(seed), NARROW, size=size, num_frames=SECONDS * FPS) for scene in scenes
    )
    frames[list(moment.frames)] = then[list(moment.frames)]
    return frames


def render_moments(
    root: Path, split: Literal["train", "val"], num_pairs: int, seed: int = 0, *, size: int = 96
) -> Path:
    """Render the videos and the table `<root>/<split>/pairs.jsonl`, or return at once if they exist.

    One video of each pair is right and the other one wrong. The teacher asks for the frames of the moment by their
    numbers, from 1 on. The videos are encoded without loss, so that what is equal stays equal.

    Args:
        root: Folder of all splits.
        split: Name of the split.
        num_pairs: Number of pairs.
        seed: Seed of all random draws.
        size: Width and height of a video in pixels.

    Returns:
        Path of the pair table.
    """
    return render_job(root / split, _Job(split, num_pairs, seed, size))


@dataclass(frozen=True, slots=True)
class _Job:
    """One split to render."""

    split: str
    num_pairs: int
    seed: int
    size: int

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of everything that the videos and the table depend on."""
        found = fingerprint(asdict(self) | {"moments": MOMENTS_VERSION})
        return {"videos": found, "table": found}

    def pair(self, folder: Path, index: int) -> Pair:
        """Return a pair of which one video is right."""
        name, moments = self._moments(index)
        a, b = (self._side(folder, name, *one) for one in zip(SIDES, moments, strict=True))
        return Pair(name, moments[0].prompt, a, b, (1.0 if a.mos > b.mos else -1.0,))

    def render(self, folder: Path, index: int) -> None:
        """Draw and encode both videos of a pair."""
        name, moments = self._moments(index)
        for side, moment in zip(SIDES, moments, strict=True):
            draw = partial(draw_moment, moment, fold(self.seed, "draw", name, side), size=self.size)
            write_once(folder / video_name(name, side), draw, FPS, crf=0)

    def _moments(self, index: int) -> tuple[str, tuple[Moment, Moment]]:
        name = f"{self.split}-{index:05d}"
        right, wrong = draw_moments(np.random.default_rng(fold(self.seed, "moments", name)))
        return name, (right, wrong) if uniform(self.seed, "side", name) < 0.5 else (wrong, right)

    def _side(self, folder: Path, name: str, side: str, moment: Moment) -> Side:
        thought = moment.thought(write_call([index + 1 for index in moment.frames]))
        path = str(folder / video_name(name, side))
        return Side(path, thought, moment.scores, mos=(overall_score(moment.scores),))

"""Endless videos of the broad split, each a function of its number, and what a step sees of them."""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

from data_modules.world import drawing
from data_modules.world.scene import Scene, Split, draw_scene
from descore.seeding import fold
from descore.types import Frames
from descore.video.frames import VideoReader
from descore.video.writer import write_video
from pretraining.recipe import Course

SIZE, NUM_FRAMES, FPS = 96, 16, 8


class Videos:
    """Videos by number, drawn when they are first read: encoded and decoded as those of the pairs are.

    Args:
        reader: Reads a video as the backbone sees it.
        split: Split whose ranges the videos have. The scene is of any combination.
        seed: Seed of all draws.
        kept: Number of videos kept in memory, those that were used last.
    """

    def __init__(self, reader: VideoReader, split: Split = "pretraining", *, seed: int, kept: int) -> None:
        self.reader, self.split, self.seed, self.kept = reader, split, seed, kept
        self._known: OrderedDict[int, tuple[Scene, Frames]] = OrderedDict()
        self._folder = tempfile.TemporaryDirectory()

    def __getitem__(self, number: int) -> tuple[Scene, Frames]:
        """Return the scene of a video, and its frames."""
        if number not in self._known:
            self._known[number] = self._draw(number)
        self._known.move_to_end(number)
        while len(self._known) > self.kept:
            self._known.popitem(last=False)
        return self._known[number]

    def _draw(self, number: int) -> tuple[Scene, Frames]:
        rng = np.random.default_rng(fold(self.seed, "video", str(number)))
        scene = draw_scene(rng)
        frames = drawing.draw(scene, rng, drawing.DOMAINS[self.split], size=SIZE, num_frames=NUM_FRAMES)
        path = Path(self._folder.name, "video.mp4")
        write_video(path, frames, FPS)
        return scene, self.reader(str(path))


def numbers_of(step: int, course: Course, seed: int) -> list[int]:
    """Return the numbers of the videos of a step: a share that no earlier step had, the rest among the newest ones.

    >>> numbers_of(0, Course(steps=1, videos=4, learning_rate=1e-3, fresh=0.5), seed=0)[:2]
    [0, 1]
    """
    rng = np.random.default_rng(fold(seed, "step", str(step)))
    num_new = round(course.fresh * course.videos)
    first = step * num_new
    old = rng.integers(max(0, first - course.kept), first + num_new, size=course.videos - num_new)
    return [*range(first, first + num_new), *map(int, old)]

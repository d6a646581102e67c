"""Scenes of the rendered world: what a prompt asks for, what a video shows, and the exact scores of the difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from descore.types import DIMENSIONS, DimensionScores

Split = Literal["pretraining", "train", "val", "ood", "far"]
"""Splits: `pretraining` is broad, and what the tiny backbone learns from; `train` and `val` are narrow, and what the
pairs show; `ood` is what the pairs never show, inside of what the backbone has seen; `far` is outside of both."""

SHIFTED: frozenset[Split] = frozenset({"ood", "far"})
"""Splits whose requests have only combinations that the pairs never show."""

VALUES: Mapping[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "cross", "ring"),
    "colour": ("red", "green", "blue", "yellow", "purple", "white"),
    "motion": ("left", "right", "up", "down"),
    "speed": ("slowly", "fast"),
    "movement": ("stays still", "zooms in", "zooms out", "shakes"),
    "shot": ("close-up", "wide"),
    "setting": ("beach", "forest", "city", "desert"),
    "light": ("day", "night"),
    "look": ("flat", "outlined", "grainy", "pixelated"),
    "quality": ("steady", "flickers"),
}
"""Every attribute of a scene, and the words that it can have."""

ATTRIBUTES: Mapping[str, tuple[str, str]] = {
    "subject": ("shape", "colour"),
    "dynamics": ("motion", "speed"),
    "camera": ("movement", "shot"),
    "environment": ("setting", "light"),
    "style": ("look", "quality"),
}
"""The two attributes that each dimension judges; each is worth one point of the score."""

HELD_OUT = (("shape", "colour"), ("motion", "movement"), ("setting", "look"))
"""Pairs of attributes whose words at the same index of `VALUES` (circle and red) never occur together in the pairs."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a video shows: one word for each attribute of `VALUES`, two attributes per dimension."""

    shape: str
    colour: str
    motion: str
    speed: str
    movement: str
    shot: str
    setting: str
    light: str
    look: str
    quality: str

    def words(self, dimension: str) -> tuple[str, str]:
        """Return the words of a dimension's two attributes."""
        first, second = ATTRIBUTES[dimension]
        return getattr(self, first), getattr(self, second)


@dataclass(frozen=True, slots=True)
class Request:
    """What a prompt asks for.

    Attributes:
        scene: Scene that the prompt describes. It is always steady, since nobody asks for flicker.
        asked: Dimensions that the prompt mentions, in the order of `DIMENSIONS`.
    """

    scene: Scene
    asked: tuple[str, ...]


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene of any combination of words."""
    return Scene(**{name: words[rng.integers(len(words))] for name, words in VALUES.items()})


def draw_request(rng: np.random.Generator, split: Split, omission: float) -> Request:
    """Draw a random request of a split.

    Args:
        rng: Random generator of all draws.
        split: Split of the request: "ood" and "far" have only held-out combinations, "train" and "val" have none, and
            "pretraining" has any.
        omission: Probability that the prompt leaves out a secondary dimension, for each of them.
    """
    scene = draw_scene(rng)
    if split in SHIFTED:
        scene = replace(scene, **{second: VALUES[second][_place(scene, first)] for first, second in HELD_OUT})
    while _is_narrow(split) and num_held_out(scene):
        scene = draw_scene(rng)
    return _ask(rng, scene, omission)


def draw_request_about(rng: np.random.Generator, shown: Scene, omission: float, corruption: float) -> Request:
    """Draw a request that a video might have been generated from: it differs from what is shown in some attributes.

    Args:
        rng: Random generator of all draws.
        shown: Scene that the video shows.
        omission: Probability that the prompt leaves out a secondary dimension, for each of them.
        corruption: Probability that an attribute of the request is not the shown one, for each of them.
    """
    words = {name: _other(rng, name, getattr(shown, name)) for name in VALUES if rng.random() < corruption}
    return _ask(rng, replace(shown, **words), omission)


def draw_shown(rng: np.random.Generator, request: Request, split: Split, corruption: float) -> Scene:
    """Draw the scene that a video shows for a request; attributes that the prompt does not mention are random.

    Args:
        rng: Random generator of all draws.
        request: What the prompt asks for.
        split: Split of the video. A "train" or "val" video never shows a held-out combination: the draw is repeated.
        corruption: Probability that an attribute that the prompt mentions is wrong, for each of them.
    """
    scene = _corrupted(rng, request, corruption)
    while _is_narrow(split) and num_held_out(scene):
        scene = _corrupted(rng, request, corruption)
    return scene


def num_held_out(scene: Scene) -> int:
    """Return the number of held-out combinations in a scene.

    >>> num_held_out(
    ...     Scene("circle", "red", "up", "fast", "shakes", "wide", "desert", "day", "pixelated", "steady")
    ... )
    2
    """
    return sum(_place(scene, first) == _place(scene, second) for first, second in HELD_OUT)


def wrong_attributes(request: Request, shown: Scene) -> dict[str, tuple[str, ...]]:
    """Return, for each dimension that the prompt mentions, the attributes in which the video differs from it."""
    return {
        dimension: tuple(name for name in ATTRIBUTES[dimension] if getattr(shown, name) != getattr(request.scene, name))
        for dimension in request.asked
    }


def count_scores(wrong: Mapping[str, tuple[str, ...]]) -> DimensionScores:
    """Return the score of each dimension, the number of its right attributes; None for one that is not asked for.

    >>> count_scores({"subject": (), "dynamics": ("speed",), "style": ("look", "quality")})
    {'subject': 2, 'dynamics': 1, 'camera': None, 'environment': None, 'style': 0}
    """
    return {name: 2 - len(wrong[name]) if name in wrong else None for name in DIMENSIONS}


def _is_narrow(split: Split) -> bool:
    return split in {"train", "val"}


def _ask(rng: np.random.Generator, scene: Scene, omission: float) -> Request:
    asked = DIMENSIONS[:2] + tuple(name for name in DIMENSIONS[2:] if rng.random() >= omission)
    return Request(replace(scene, quality="steady"), asked)


def _other(rng: np.random.Generator, name: str, word: str) -> str:
    others = [other for other in VALUES[name] if other != word]
    return others[rng.integers(len(others))]


def _corrupted(rng: np.random.Generator, request: Request, corruption: float) -> Scene:
    scene = draw_scene(rng)
    for dimension in request.asked:
        for name in ATTRIBUTES[dimension]:
            word = getattr(request.scene, name)
            if rng.random() < corruption:
                word = _other(rng, name, word)
            scene = replace(scene, **{name: word})
    return scene


def _place(scene: Scene, attribute: str) -> int:
    return VALUES[attribute].index(getattr(scene, attribute))

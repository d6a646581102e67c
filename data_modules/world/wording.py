"""Prompts of the rendered world: a small closed vocabulary, so that a small model can learn the language from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from data_modules.world.scene import Request, Split

Wording = Mapping[str, str]
"""One sentence per dimension, in the order of the prompt; the sentence of the subject also names the dynamics."""

NARROW: tuple[Wording, ...] = (
    {
        "subject": "A {colour} {shape} moves {motion} {speed}.",
        "camera": "The camera {movement}, {shot}.",
        "environment": "A {setting} by {light}.",
        "style": "The look is {look}.",
    },
    {
        "style": "The video is {look}.",
        "environment": "It is {light}, the place is a {setting}.",
        "subject": "A {colour} {shape} moves {speed} {motion}.",
        "camera": "The shot is {shot}, the camera {movement}.",
    },
    {
        "camera": "A {shot} shot, the camera {movement}.",
        "subject": "The {shape} is {colour} and moves {motion} {speed}.",
        "style": "It looks {look}.",
        "environment": "The {setting} is seen by {light}.",
    },
    {
        "environment": "The place is a {setting} by {light}.",
        "camera": "The camera {movement}, a {shot} shot.",
        "style": "The look is {look}.",
        "subject": "A {shape} in {colour} moves {speed} {motion}.",
    },
)
"""Wordings of the prompts of the pairs."""

SHIFTED: tuple[Wording, ...] = (
    {
        "camera": "The camera {movement} and the shot is {shot}.",
        "style": "The video looks {look}.",
        "subject": "A {shape} moves {motion} {speed} and is {colour}.",
        "environment": "It is a {setting} by {light}.",
    },
    {
        "environment": "The place by {light} is a {setting}.",
        "style": "It is {look}.",
        "camera": "It is a {shot} shot and the camera {movement}.",
        "subject": "A {shape} moves {speed} {motion} in {colour}.",
    },
)
"""Wordings of out-of-domain prompts: no new words, but other sentences in another order."""

FAR: tuple[Wording, ...] = (
    {
        "style": "A {look} look.",
        "subject": "It moves {motion} {speed}, the {shape} in {colour}.",
        "environment": "The {setting}, seen by {light}.",
        "camera": "A camera {movement}, the shot {shot}.",
    },
    {
        "camera": "A {shot} camera {movement}.",
        "environment": "It is the {setting}, {light}.",
        "subject": "A {colour} {shape} is seen and moves {speed} {motion}.",
        "style": "It is a {look} video.",
    },
)

WORDINGS: Mapping[Split, tuple[Wording, ...]] = {
    "pretraining": NARROW + SHIFTED,
    "train": NARROW,
    "val": NARROW,
    "ood": SHIFTED,
    "far": FAR,
}
"""Wordings of each split; "far" has sentences that not even the backbone has seen, in words that it knows."""


def write_prompt(request: Request, split: Split, rng: np.random.Generator) -> str:
    """Write a request as a prompt, in a random wording of its split.

    >>> from data_modules.world.scene import Scene
    >>> scene = Scene("ring", "blue", "up", "fast", "shakes", "wide", "city", "day", "flat", "steady")
    >>> write_prompt(Request(scene, asked=("subject", "dynamics")), "train", np.random.default_rng(0))
    'A ring in blue moves fast up.'
    """
    wordings = WORDINGS[split]
    wording = wordings[int(rng.integers(len(wordings)))]
    words = asdict(request.scene)
    return " ".join(sentence.format(**words) for name, sentence in wording.items() if name in request.asked)

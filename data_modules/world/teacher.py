"""The teacher of the rendered world: exact thoughts about its videos, or thoughts with habitual and random errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_modules.world.scene import ATTRIBUTES, Request, Scene, count_scores, wrong_attributes
from descore.answer import NOT_ASKED, Answer, overall_score, write_thought
from descore.seeding import fold, uniform
from descore.types import DIMENSIONS

KIND_HABITS: Mapping[str, float] = {"dynamics": 0.75, "camera": 0.9, "environment": 0.9, "style": 0.9}
"""Habits of the teacher in the embedded run: exact about the subject, lenient about all other dimensions."""


@dataclass(frozen=True)
class Teacher:
    """Writer of teacher's thoughts, with errors; the annotated scores stay exact.

    Attributes:
        habits: Probability, by dimension, that the teacher overlooks one flaw where there is any, 0 to 1.
        corrupt: Probability that the teacher gives an asked dimension a random wrong score, 0 to 1.

    Raises:
        ValueError: If a dimension is unknown, or a probability is out of its range.
    """

    habits: Mapping[str, float] = field(default_factory=lambda: dict(KIND_HABITS))
    corrupt: float = 0.0

    def __post_init__(self) -> None:
        if unknown := self.habits.keys() - set(DIMENSIONS):
            raise ValueError(f"expected habits for {', '.join(DIMENSIONS)}, got {', '.join(sorted(unknown))}")
        for name, value in {**self.habits, "corrupt": self.corrupt}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"expected a probability from 0 to 1 for {name}, got {value}")

    def thought(self, request: Request, shown: Scene, *, seed: int, video: str) -> str:
        """Write the thought about a video; its comparison agrees with its scores, even where both are wrong.

        Args:
            request: What the prompt asks for.
            shown: What the video shows; the thought describes it correctly.
            seed: Seed of the data set.
            video: Unique name of the video, which keys the teacher's errors.
        """
        truth = wrong_attributes(request, shown)
        found = {name: self._judge(name, wrong, seed, video) for name, wrong in truth.items()}
        return describe(request, shown, found)

    def _judge(self, dimension: str, wrong: tuple[str, ...], seed: int, video: str) -> tuple[str, ...]:
        draws = fold(seed, "teacher", video, dimension)
        if uniform(draws, "corrupt") < self.corrupt:
            count = [other for other in range(3) if other != len(wrong)][fold(draws, "score") % 2]
        elif wrong and uniform(draws, "habit") < self.habits.get(dimension, 0.0):
            count = len(wrong) - 1
        else:
            return wrong
        first, second = ATTRIBUTES[dimension]
        return ((), ((first,), (second,))[fold(draws, "flaw") % 2], (first, second))[count]


def describe(request: Request, shown: Scene, wrong: Mapping[str, tuple[str, ...]]) -> str:
    """Write a thought: what the prompt leads one to expect, what the video shows, the comparison, and the answer.

    Args:
        request: What the prompt asks for.
        shown: What the video shows.
        wrong: Attributes found wrong, for each asked dimension.
    """
    expected = "; ".join(", ".join(request.scene.words(d)) if d in request.asked else NOT_ASKED for d in DIMENSIONS)
    seen = "; ".join(", ".join(shown.words(d)) for d in DIMENSIONS)
    compared = "; ".join(_compare(d, request.scene, shown, wrong.get(d)) for d in DIMENSIONS)
    scores = count_scores(wrong)
    think = f"Expect: {expected}.\nShown: {seen}.\nCompare: {compared}."
    return write_thought(think, Answer(scores, overall_score(scores)))


def _compare(dimension: str, asked: Scene, shown: Scene, wrong: tuple[str, ...] | None) -> str:
    """Compare word by word, each asked one beside the shown one: a small model compares what stands side by side."""
    if wrong is None:
        return f"{dimension} {NOT_ASKED}"
    return ", ".join(
        f"{getattr(asked, name)} {getattr(shown, name)} {'wrong' if name in wrong else 'fits'}"
        for name in ATTRIBUTES[dimension]
    )

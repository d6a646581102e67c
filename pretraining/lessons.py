"""What is taught about a video and a request: texts behind the prompt, with a weight for each token.

One prefix serves all of them: whole thoughts, dimension scores at once, captions, answers to the questions of a
checklist, and to yes/no questions about single words. Where any of them may begin, its first words have weight 0, but
for the thought: a model that is not told how to begin writes a thought.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_modules.world.scene import VALUES, Request, Scene, count_scores, draw_request_about, wrong_attributes
from data_modules.world.teacher import describe
from data_modules.world.wording import write_prompt
from descore.inputs.processor import Processor
from descore.types import DIMENSIONS, Thought

FORM, INFORMATION = 0.1, 1.0
"""Weights of a token that the form of the text fixes, and of one that says something."""

OMISSION, CORRUPTION = 0.25, 0.3
"""Probabilities that a prompt leaves out a secondary dimension, and that it asks for another word than is shown."""

_WORDS = {word for words in VALUES.values() for word in words} | {"fits", "wrong", "N/A"}
_SAYS = re.compile(r"\b(?:" + "|".join(map(re.escape, sorted(_WORDS, key=len, reverse=True))) + r")|\d\.?\d*")
_SHOWN = re.compile(r"(?<=\nShown:).*")


class Lesson(NamedTuple):
    """A text that is taught: its tokens, and the weight of each predicted one, the end of turn included."""

    thought: Thought
    weights: tuple[float, ...]


def lesson(processor: Processor, given: str, taught: str, *, blind: bool = False) -> Lesson:
    """Make the lesson of a text.

    Args:
        processor: Processor of the model that learns.
        given: Beginning of the text, of weight 0.
        taught: Rest of the text.
        blind: Whether what the video shows has weight 0, because it is not there.
    """
    text = given + taught
    weights = np.full(len(text), FORM)
    for found in _SAYS.finditer(text):
        weights[slice(*found.span())] = INFORMATION
    if blind and (line := _SHOWN.search(text)):
        weights[slice(*line.span())] = 0.0
    weights[: len(given)] = 0.0
    tokens = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    each = tuple(float(weights[slice(*span)].max()) for span in tokens["offset_mapping"])
    return Lesson(Thought(tuple(tokens["input_ids"]), closed=True), (*each, FORM))


def thought(processor: Processor, request: Request, shown: Scene, *, blind: bool = False) -> Lesson:
    """Make the lesson of the exact thought about a video; a blind one does not learn what is shown."""
    return lesson(processor, "", describe(request, shown, wrong_attributes(request, shown)), blind=blind)


def scores_at_once(processor: Processor, request: Request, shown: Scene) -> Lesson:
    """Make the lesson of the exact answer without a thought."""
    text = describe(request, shown, wrong_attributes(request, shown)).partition("</think>")[2]
    return lesson(processor, "<answer>", text.removeprefix("<answer>"))


def caption(processor: Processor, shown: Scene) -> Lesson:
    """Make the lesson of what a video shows."""
    return lesson(processor, "Video: ", "; ".join(", ".join(shown.words(name)) for name in DIMENSIONS) + ".")


def check(processor: Processor, request: Request, shown: Scene, rng: np.random.Generator) -> Lesson:
    """Make the lesson of one question of the checklist `checklist_rendered`."""
    scores = count_scores(wrong_attributes(request, shown))
    name = request.asked[rng.integers(len(request.asked))]
    least, line = ((2, "Compare"), (1, "Shown"))[rng.integers(2)]
    return lesson(processor, f"{line}: {name}", " fits" if (scores[name] or 0) >= least else " wrong")


def question(processor: Processor, shown: Scene, rng: np.random.Generator) -> Lesson:
    """Make the lesson of a yes/no question about one word of the video."""
    name = list(VALUES)[rng.integers(len(VALUES))]
    word, right = VALUES[name][rng.integers(len(VALUES[name]))], getattr(shown, name)
    word = right if rng.random() < 0.5 else word
    return lesson(processor, f"Is it {word}?", " fits" if word == right else " wrong")


def draw_lessons(
    processor: Processor, shown: Scene, rng: np.random.Generator, num_requests: int
) -> list[tuple[str, list[Lesson]]]:
    """Draw requests about a video, and what is taught of each: the prompt and its lessons.

    Args:
        processor: Processor of the model that learns.
        shown: Scene that the video shows.
        rng: Random generator of all draws.
        num_requests: Number of requests.
    """
    drawn = []
    for index in range(num_requests):
        request = draw_request_about(rng, shown, OMISSION, CORRUPTION)
        taught = [thought(processor, request, shown), scores_at_once(processor, request, shown)]
        taught += [caption(processor, shown)] if index == 0 else []
        taught += [check(processor, request, shown, rng) for _ in range(2)]
        taught += [question(processor, shown, rng) for _ in range(2)]
        drawn.append((write_prompt(request, "pretraining", rng), taught))
    return drawn


def flat(lessons: Sequence[Sequence[Lesson]]) -> list[float]:
    """Return the weights of all lessons in one list, in the order in which a packed row predicts their tokens."""
    return [weight for taught in lessons for one in taught for weight in one.weights]

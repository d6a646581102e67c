"""What the tiny backbone is taught, and what each token weighs."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.world.scene import Request, Scene
from descore.answer import parse_answer
from descore.inputs.processor import Processor
from descore.types import DIMENSIONS
from pretraining import lessons
from pretraining.lessons import FORM, INFORMATION, Lesson
from pretraining.recipe import VIDEO, Course
from pretraining.videos import Videos, numbers_of

SHOWN = Scene("circle", "blue", "left", "fast", "zooms in", "close-up", "forest", "night", "flat", "steady")
ASKED = Request(
    Scene("circle", "red", "left", "slowly", "zooms in", "wide", "forest", "day", "flat", "steady"), DIMENSIONS
)


@pytest.fixture(scope="module")
def processor(qwen3) -> Processor:
    return qwen3.processor


def weighed(processor: Processor, lesson: Lesson, weight: float) -> str:
    """Return the tokens of a lesson that have a weight, as text."""
    ids, weights = lesson.thought.token_ids, lesson.weights
    assert len(weights) == len(ids) + 1, "the end of turn is learnt too"
    return processor.tokenizer.decode([token for token, one in zip(ids, weights, strict=False) if one == weight])


def test_what_a_thought_says_weighs_more_than_its_form(processor):
    lesson = lessons.thought(processor, ASKED, SHOWN)
    said = weighed(processor, lesson, INFORMATION)
    for word in ("circle", "blue", "red", "wrong", "fits", "zooms in", "close-up"):
        assert word in said
    form = weighed(processor, lesson, FORM)
    assert "Expect" in form
    assert "dimension_scores" in form.replace(" ", "")
    assert parse_answer(processor.thought_text(lesson.thought.token_ids)).scores["subject"] == 1


def test_who_sees_nothing_does_not_learn_what_is_shown(processor):
    lesson = lessons.thought(processor, ASKED, SHOWN, blind=True)
    unseen = weighed(processor, lesson, 0.0)
    assert "blue" in unseen
    assert "red" not in unseen
    assert weighed(processor, lesson, INFORMATION).count("circle") == 3, "what is expected, and the comparison"


def test_no_lesson_but_the_thought_teaches_how_to_begin(processor):
    rng = np.random.default_rng(0)
    ((prompt, taught),) = lessons.draw_lessons(processor, SHOWN, rng, 1)
    assert prompt
    first, *others = taught
    assert first.weights[0] > 0
    assert {lesson.weights[0] for lesson in others} == {0.0}
    texts = [processor.thought_text(lesson.thought.token_ids) for lesson in taught]
    assert texts[0].startswith("<think>")
    assert texts[1].startswith("<answer>")
    assert texts[2] == "Video: circle, blue; left, fast; zooms in, close-up; forest, night; flat, steady."
    assert all(text.endswith(("fits", "wrong")) for text in texts[3:])
    assert len(lessons.flat([taught])) == sum(len(lesson.weights) for lesson in taught)


@pytest.mark.parametrize("seed", range(8))
def test_checks_and_questions_are_answered_right(processor, seed):
    rng = np.random.default_rng(seed)
    text = processor.thought_text(lessons.check(processor, ASKED, SHOWN, rng).thought.token_ids)
    line, _, rest = text.partition(": ")
    name, answer = rest.split()
    right = {"subject": 1, "dynamics": 1, "camera": 1, "environment": 1, "style": 2}[name]
    assert (answer == "fits") == (right >= (2 if line == "Compare" else 1))
    text = processor.thought_text(lessons.question(processor, SHOWN, rng).thought.token_ids)
    word, _, answer = text.removeprefix("Is it ").partition("? ")
    assert (answer == "fits") == (word in [getattr(SHOWN, name) for name in SHOWN.__slots__])


def test_a_step_has_its_share_of_new_videos_and_the_rest_of_the_newest():
    course = Course(steps=1, videos=10, learning_rate=1e-3, fresh=0.3, kept=12)
    new = [number for step in range(20) for number in numbers_of(step, course, 0)[:3]]
    assert new == list(range(60)), "each is new once"
    for step in range(20):
        numbers = numbers_of(step, course, 0)
        assert len(numbers) == 10
        assert all(3 * step - 12 <= number < 3 * step + 3 for number in numbers)
        assert numbers == numbers_of(step, course, 0)
    assert numbers_of(3, course, 0) != numbers_of(3, course, 1)


def test_a_video_is_a_function_of_its_number(processor):
    one, other = (Videos(processor.video_reader, seed=0, kept=kept) for kept in (1, 8))
    for number in (3, 5, 3):
        (scene, frames), (same_scene, same) = one[number], other[number]
        assert scene == same_scene
        assert (frames.pixels == same.pixels).all()
    assert len(one._known) == 1
    assert other[3][1].pixels is other[3][1].pixels, "drawn once"
    assert VIDEO.max_frames == 8

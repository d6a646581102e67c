import re
from dataclasses import replace

import numpy as np
import pytest

from data_modules.world.scene import (
    ATTRIBUTES,
    VALUES,
    Request,
    Scene,
    count_scores,
    draw_request,
    draw_shown,
    wrong_attributes,
)
from data_modules.world.teacher import Teacher
from descore.answer import overall_score, parse_answer
from descore.types import DIMENSIONS

SCENE = Scene("circle", "blue", "left", "fast", "zooms in", "close-up", "forest", "night", "flat", "steady")
EXACT = Teacher(habits={})


def cases(count=150):
    """Yield a name, a request, a video and its true scores."""
    for index in range(count):
        rng = np.random.default_rng(index)
        request = draw_request(rng, "train", 0.25)
        shown = draw_shown(rng, request, "train", 0.4)
        yield str(index), request, shown, count_scores(wrong_attributes(request, shown))


def compared(thought):
    """Read the flaws that the comparison names, per dimension; None where it says N/A."""
    findings = re.search(r"Compare: (.*)\.</think>", thought)[1].split("; ")
    assert len(findings) == len(DIMENSIONS)
    for dimension, said in zip(DIMENSIONS, findings, strict=True):
        words = ("|".join(VALUES[name]) for name in ATTRIBUTES[dimension])
        asked = ", ".join(f"({some}) ({some}) (fits|wrong)" for some in words)
        assert re.fullmatch(rf"{asked}|{dimension} N/A", said)
    return {
        dimension: None if said.endswith("N/A") else said.count("wrong")
        for dimension, said in zip(DIMENSIONS, findings, strict=True)
    }


def test_an_exact_thought_reads_like_this():
    """Scores 1, 0, 2, N/A, 1: one primary is 0, so band 2, plus 0.99 * 4 / 8 = 0.495."""
    request = Request(SCENE, ("subject", "dynamics", "camera", "style"))
    shown = replace(SCENE, colour="red", motion="up", speed="slowly", setting="city", quality="flickers")
    assert EXACT.thought(request, shown, seed=0, video="a") == (
        "<think>Expect: circle, blue; left, fast; zooms in, close-up; N/A; flat, steady.\n"
        "Shown: circle, red; up, slowly; zooms in, close-up; city, night; flat, flickers.\n"
        "Compare: circle circle fits, blue red wrong; left up wrong, fast slowly wrong; zooms in zooms in fits, "
        "close-up close-up fits; environment N/A; flat flat fits, steady flickers wrong.</think>"
        '<answer>{"dimension_scores": {"subject": 1, "dynamics": 0, "camera": 2, "environment": "N/A", "style": 1}, '
        '"overall_score": 2.5}</answer>'
    )


def test_an_exact_teacher_gives_the_true_scores():
    for name, request, shown, truth in cases():
        answer = parse_answer(EXACT.thought(request, shown, seed=0, video=name))
        assert answer.scores == truth
        assert answer.overall == overall_score(truth)


def test_thoughts_are_short():
    for name, request, shown, _ in cases():
        think = EXACT.thought(request, shown, seed=0, video=name).partition("</think>")[0]
        assert len(think) <= 500


def test_a_kind_teacher_overlooks_one_flaw_of_its_dimension_only():
    for name, request, shown, truth in cases():
        scores = parse_answer(Teacher({"camera": 1.0}).thought(request, shown, seed=0, video=name)).scores
        camera = truth["camera"]
        assert scores == {**truth, "camera": None if camera is None else min(camera + 1, 2)}


def test_a_habit_shows_as_often_as_said():
    """About 250 flawed dimensions with p = 0.5: standard deviation 0.03."""
    kind = [
        parse_answer(Teacher({"dynamics": 0.5}).thought(request, shown, seed=0, video=name)).scores["dynamics"]
        - truth["dynamics"]
        for name, request, shown, truth in cases(400)
        if truth["dynamics"] < 2
    ]
    assert set(kind) == {0, 1}
    assert 0.38 < np.mean(kind) < 0.62


def test_a_corrupted_score_is_another_legal_one():
    seen = set()
    for name, request, shown, truth in cases():
        scores = parse_answer(Teacher(corrupt=1.0).thought(request, shown, seed=0, video=name)).scores
        for dimension in DIMENSIONS:
            assert (scores[dimension] is None) == (truth[dimension] is None)
            if truth[dimension] is not None:
                assert scores[dimension] != truth[dimension]
                seen.add((truth[dimension], scores[dimension]))
    assert seen == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}


@pytest.mark.parametrize("teacher", [EXACT, Teacher(), Teacher({}, corrupt=0.5)])
def test_the_comparison_agrees_with_the_scores_and_the_rest_stays_honest(teacher):
    for name, request, shown, _ in cases():
        thought, honest = (t.thought(request, shown, seed=0, video=name) for t in (teacher, EXACT))
        scores = parse_answer(thought).scores
        assert compared(thought) == {d: None if score is None else 2 - score for d, score in scores.items()}
        assert thought.partition("Compare")[0] == honest.partition("Compare")[0]


def test_what_a_teacher_says_depends_on_seed_and_video_alone():
    teacher = Teacher(corrupt=0.5)
    _, request, shown, _ = next(cases())
    said = teacher.thought(request, shown, seed=0, video="a")
    assert teacher.thought(request, shown, seed=0, video="a") == said
    assert {teacher.thought(request, shown, seed=seed, video="a") for seed in range(8)} != {said}
    assert {teacher.thought(request, shown, seed=0, video=video) for video in "bcdefg"} != {said}


def test_a_wrong_habit_is_refused_by_name():
    with pytest.raises(ValueError, match="got colour"):
        Teacher(habits={"colour": 0.5})
    with pytest.raises(ValueError, match=r"0 to 1 for camera, got 1\.5"):
        Teacher(habits={"camera": 1.5})

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
    draw_request_about,
    draw_scene,
    draw_shown,
    num_held_out,
    wrong_attributes,
)
from data_modules.world.wording import FAR, NARROW, SHIFTED, WORDINGS, write_prompt
from descore.answer import overall_score
from descore.types import DIMENSIONS

SCENE = Scene("circle", "blue", "left", "fast", "zooms in", "close-up", "forest", "night", "flat", "steady")
ALL = Request(SCENE, DIMENSIONS)


def requests(split, count=600, omission=0.25):
    return [draw_request(np.random.default_rng(i), split, omission) for i in range(count)]


def shown(split, request, seed, corruption=0.3):
    return draw_shown(np.random.default_rng(seed), request, split, corruption)


def test_every_dimension_has_its_two_attributes():
    assert tuple(ATTRIBUTES) == DIMENSIONS
    assert [name for pair in ATTRIBUTES.values() for name in pair] == list(VALUES)


def test_scores_count_the_right_attributes_and_leave_out_what_is_not_asked():
    """Wrong: shape and colour -> 0; speed -> 1; nothing -> 2; setting, but not asked; quality -> 1.

    Overall: one primary is 0, so band 2, plus 0.99 of the share (0 + 1 + 2 + 1) / 8 = 0.5: 2.495, which is 2.5 or 2.49.
    """
    request = Request(SCENE, ("subject", "dynamics", "camera", "style"))
    video = replace(SCENE, shape="ring", colour="red", speed="slowly", setting="city", quality="flickers")
    wrong = wrong_attributes(request, video)
    assert wrong == {"subject": ("shape", "colour"), "dynamics": ("speed",), "camera": (), "style": ("quality",)}
    scores = count_scores(wrong)
    assert scores == {"subject": 0, "dynamics": 1, "camera": 2, "environment": None, "style": 1}
    assert overall_score(scores) == pytest.approx(2.495, abs=0.006)


def test_a_faithful_video_is_perfect():
    assert overall_score(count_scores(wrong_attributes(ALL, shown("train", ALL, 0, corruption=0.0)))) == 5.0


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_and_validation_never_show_a_held_out_combination(split):
    for seed, request in enumerate(requests(split)):
        assert num_held_out(request.scene) == 0
        assert num_held_out(shown(split, request, seed)) == 0


@pytest.mark.parametrize("split", ["ood", "far"])
def test_out_of_domain_prompts_ask_for_held_out_combinations_only(split):
    asked = requests(split)
    assert {num_held_out(request.scene) for request in asked} == {3}
    assert {(request.scene.setting, request.scene.look) for request in asked} == {
        ("beach", "flat"),
        ("forest", "outlined"),
        ("city", "grainy"),
        ("desert", "pixelated"),
    }


def test_prompts_always_ask_for_the_primaries_and_leave_out_a_quarter_of_each_secondary():
    """600 draws with p = 0.25: standard deviation 0.018, so 0.19 to 0.31 is more than three of them."""
    asked = [request.asked for request in requests("train")]
    assert all(names[:2] == ("subject", "dynamics") for names in asked)
    for name in DIMENSIONS[2:]:
        assert 0.19 < np.mean([name not in names for names in asked]) < 0.31


@pytest.mark.parametrize("attribute", list(VALUES))
def test_each_asked_attribute_is_wrong_as_often_as_said(attribute):
    """800 draws with p = 0.3: standard deviation 0.016; repeated draws of held-out combinations move it a little."""
    request = Request(replace(SCENE, colour="white", look="grainy"), DIMENSIONS)
    videos = [shown("train", request, seed) for seed in range(800)]
    wrong = [getattr(video, attribute) != getattr(request.scene, attribute) for video in videos]
    assert 0.22 < np.mean(wrong) < 0.38


def test_attributes_that_are_not_asked_take_every_word():
    request = Request(SCENE, ("subject", "dynamics"))
    videos = [shown("ood", request, seed, corruption=0.0) for seed in range(200)]
    for dimension in DIMENSIONS:
        for name in ATTRIBUTES[dimension]:
            seen = {getattr(video, name) for video in videos}
            assert seen == ({getattr(SCENE, name)} if dimension in request.asked else set(VALUES[name]))


def test_a_prompt_names_what_is_asked_and_nothing_else():
    for split in WORDINGS:
        for seed, request in enumerate(requests(split, 100)):
            prompt = write_prompt(request, split, np.random.default_rng(seed))
            for dimension in DIMENSIONS:
                named = [word in prompt for word in request.scene.words(dimension)]
                if dimension in request.asked:
                    assert named == [True, dimension != "style"], "nobody asks for a steady picture"
                elif dimension != "style":
                    assert named == [False, False]


def test_a_prompt_reads_like_this():
    request = Request(SCENE, ("subject", "dynamics", "camera", "environment"))
    prompts = {write_prompt(request, "train", np.random.default_rng(seed)) for seed in range(40)}
    assert len(prompts) == len(NARROW)
    assert "A blue circle moves left fast. The camera zooms in, close-up. A forest by night." in prompts


def test_the_backbone_learns_from_every_combination():
    asked = requests("pretraining")
    assert {num_held_out(request.scene) for request in asked} == {0, 1, 2, 3}
    assert {num_held_out(shown("pretraining", request, seed)) for seed, request in enumerate(asked)} == {0, 1, 2, 3}


def test_a_request_about_a_scene_differs_from_it_as_often_as_said():
    """800 draws with p = 0.3: standard deviation 0.016."""
    scenes = [draw_scene(np.random.default_rng(seed)) for seed in range(800)]
    asked = [draw_request_about(np.random.default_rng(seed), one, 0.25, 0.3) for seed, one in enumerate(scenes)]
    assert {request.scene.quality for request in asked} == {"steady"}
    for name in set(VALUES) - {"quality"}:
        wrong = [getattr(r.scene, name) != getattr(one, name) for r, one in zip(asked, scenes, strict=True)]
        assert 0.25 < np.mean(wrong) < 0.35, name


@pytest.mark.parametrize(("known", "new"), [(NARROW, SHIFTED), (NARROW + SHIFTED, FAR)])
def test_wordings_of_a_shifted_split_bring_new_sentences_but_no_new_word(known, new):
    def sentences(wordings):
        return {sentence for wording in wordings for sentence in wording.values()}

    def words(wordings):
        return {word for sentence in sentences(wordings) for word in re.findall(r"[\w{}-]+", sentence)}

    assert not sentences(known) & sentences(new)
    assert words(new) <= words(known)
    assert not {tuple(wording) for wording in known} & {tuple(wording) for wording in new}, "the order is new too"

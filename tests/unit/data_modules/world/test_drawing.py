from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from data_modules.world.drawing import BROAD, DOMAINS, FAR, NARROW, NUM_BLOCKS, SHIFTED, draw
from data_modules.world.scene import VALUES, Scene

SCENE = Scene("circle", "red", "left", "fast", "stays still", "wide", "city", "day", "flat", "steady")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def frames(scene, seed=0, domain=NARROW, num_frames=16):
    return draw(scene, np.random.default_rng(seed), domain, size=96, num_frames=num_frames)


def subject(scene, seed=0, domain=NARROW):
    """Find the subject as what changes with its colour: bool [T, H, W]."""
    red, blue = (frames(replace(scene, colour=colour), seed, domain) for colour in ("red", "blue"))
    return (red != blue).any(axis=-1)


def centre(mask):
    """Return the centre of each frame's subject, x and y in pixels: [T, 2]."""
    return np.array([np.argwhere(frame).mean(axis=0)[::-1] for frame in mask])


def test_the_same_draws_give_the_same_frames_and_others_do_not():
    first = frames(SCENE)
    assert first.shape == (16, 96, 96, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, frames(SCENE))
    assert not np.array_equal(first, frames(SCENE, seed=1))


@pytest.mark.parametrize("speed", VALUES["speed"])
@pytest.mark.parametrize("movement", VALUES["movement"])
@pytest.mark.parametrize("motion", VALUES["motion"])
def test_the_subject_moves_as_said_whatever_the_camera_does(motion, movement, speed):
    scene = replace(SCENE, motion=motion, movement=movement, speed=speed)
    for seed in range(6):
        path = centre(subject(scene, seed))
        way = 15 * np.polyfit(np.arange(16), path, 1)[0]  # the trend: a shake averages out
        along, across = way @ DIRECTIONS[motion], abs(way @ DIRECTIONS[motion][::-1])
        assert along > 10
        assert along > 2 * across


def test_fast_is_at_least_two_and_a_half_times_slow():
    for domain, seed in product(DOMAINS.values(), range(4)):
        slow, fast = (
            np.linalg.norm(np.diff(centre(subject(replace(SCENE, speed=speed), seed, domain))[[0, -1]], axis=0))
            for speed in ("slowly", "fast")
        )
        assert fast > 2.45 * slow  # 2.5 in the world, less what whole pixels cost


@pytest.mark.parametrize("shot", VALUES["shot"])
def test_a_zoom_scales_the_subject_by_its_ratio_squared(shot):
    """From 0.8 to 1.25 is 1.56 times in length, 2.44 times in area."""
    scene = replace(SCENE, speed="slowly", shot=shot, motion="up")
    for movement, ratio in (("stays still", 1.0), ("zooms in", 2.44), ("zooms out", 1 / 2.44)):
        area = subject(replace(scene, movement=movement)).sum(axis=(1, 2))
        assert area[-1] / area[0] == pytest.approx(ratio, rel=0.12)


def test_a_shake_moves_backdrop_and_subject_and_a_still_camera_neither():
    scene = replace(SCENE, motion="up", speed="slowly")
    for movement, shakes in (("stays still", False), ("shakes", True)):
        video = frames(replace(scene, movement=movement))
        assert (video[0, :, :8] != video[1, :, :8]).any() == shakes  # an edge that the subject never touches
        sideways = np.abs(np.diff(centre(subject(replace(scene, movement=movement)))[:, 0]))
        assert (sideways.max() > 6) == shakes


@pytest.mark.parametrize("domain", [BROAD, NARROW, SHIFTED])
def test_the_subject_stays_in_sight(domain):
    for motion, movement, shot in product(VALUES["motion"], VALUES["movement"], VALUES["shot"]):
        area = subject(replace(SCENE, motion=motion, movement=movement, shot=shot), 3, domain).sum(axis=(1, 2))
        whole = np.pi * (48 * domain.radius[shot][0] * 0.8) ** 2
        assert area.min() > 0.5 * whole


@pytest.mark.parametrize(
    ("shape", "share"),
    [("circle", 0.785), ("square", 1.0), ("triangle", 0.5), ("cross", 0.551), ("ring", 0.611)],
)
def test_a_shape_fills_its_share_of_its_bounding_box(shape, share):
    """Circle pi / 4, triangle 1 / 2.

    Cross of arms 2 by 0.66: (2 * 1.32 - 0.4356) / 4. Ring from 0.48 to 1.02: pi * (1.02^2 - 0.48^2) / 2.04^2.
    """
    mask = subject(replace(SCENE, shape=shape, shot="close-up"))[8]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert mask.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1) == pytest.approx(share, abs=0.03)
    middle = mask[int(rows.mean()), int(columns.mean())]
    assert middle == (shape != "ring")


def test_every_attribute_changes_the_picture_at_the_size_that_the_model_reads():
    """Change one word at a time: eight frames of 48 x 48 differ by more than 1 % of full scale in the mean."""

    def read(scene):
        return frames(scene)[::2].reshape(8, 48, 2, 48, 2, 3).mean(axis=(2, 4))

    scene = replace(SCENE, shot="close-up")
    for attribute, words in VALUES.items():
        for first, second in combinations(words, 2):
            a, b = (read(replace(scene, **{attribute: word})) for word in (first, second))
            assert np.abs(a - b).mean() > 0.01 * 255, (attribute, first, second)


@pytest.mark.parametrize("setting", VALUES["setting"])
def test_night_is_much_darker_than_day_and_leaves_the_colour_of_the_subject(setting):
    day, night = (replace(SCENE, setting=setting, light=light, shot="close-up") for light in ("day", "night"))
    assert frames(night).mean() < 0.65 * frames(day).mean()
    seen = frames(night)[subject(night)].mean(axis=0)
    assert seen[0] > 4 * seen[1]  # still red
    assert seen[0] > 130


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_flicker_shows_at_every_sampling_rate_and_a_steady_video_has_none(stride):
    for seed in range(8):
        levels = frames(replace(SCENE, quality="flickers"), seed)[::stride].mean(axis=(1, 2, 3))
        assert levels.min() < 0.7 * levels.max()
        levels = frames(SCENE, seed)[::stride].mean(axis=(1, 2, 3))
        assert levels.min() > 0.95 * levels.max()


def test_looks_are_what_they_are_called():
    flat, outlined, grainy, pixelated = (frames(replace(SCENE, look=look))[8] for look in VALUES["look"])

    def colours(picture):
        return len(np.unique(picture.reshape(-1, 3), axis=0))

    assert [colours(picture) for picture in (flat, outlined, grainy)] == [3, 5, 6]
    changes = (np.diff(pixelated.astype(int), axis=1) != 0).any(axis=(0, 2)).sum()
    assert changes <= NUM_BLOCKS - 1 < (np.diff(flat.astype(int), axis=1) != 0).any(axis=(0, 2)).sum()


def test_the_out_of_domain_bands_lie_outside_those_of_the_pairs_and_inside_what_the_backbone_sees():
    def bands(domain):
        return {**domain.radius, **domain.travel, "hue": domain.hue, "brightness": domain.brightness}

    for name, (low, high) in bands(BROAD).items():
        for inside in (NARROW, SHIFTED):
            assert low <= bands(inside)[name][0] <= bands(inside)[name][1] <= high, name
        for first, second in ((NARROW, SHIFTED), (BROAD, FAR)):
            (low_1, high_1), (low_2, high_2) = bands(first)[name], bands(second)[name]
            assert high_1 < low_2 or high_2 < low_1, name

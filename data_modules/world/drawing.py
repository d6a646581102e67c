"""Drawing of scenes: one map of palette indices for all frames, and a palette per frame with light and flicker.

Coordinates run from -1 to 1 over the frame, x to the right and y down. Lengths are in that unit: 1 is half a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.world.scene import Scene, Split

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Domain:
    """Ranges that the free parameters of a video are drawn from: everything that no prompt asks for.

    Attributes:
        radius: Lowest and highest radius of the subject, by shot.
        travel: Lowest and highest distance that the subject travels in one video, by speed.
        hue: Lowest and highest rotation of all hues, in degrees, in either direction.
        brightness: Lowest and highest factor on all colours.
    """

    radius: Mapping[str, tuple[float, float]]
    travel: Mapping[str, tuple[float, float]]
    hue: tuple[float, float]
    brightness: tuple[float, float]


BROAD = Domain(
    radius={"close-up": (0.54, 0.70), "wide": (0.25, 0.35)},
    travel={"slowly": (0.20, 0.34), "fast": (0.85, 1.20)},
    hue=(0.0, 16.0),
    brightness=(0.85, 1.0),
)
NARROW = Domain(
    radius={"close-up": (0.54, 0.60), "wide": (0.31, 0.35)},
    travel={"slowly": (0.30, 0.34), "fast": (0.85, 0.98)},
    hue=(0.0, 4.0),
    brightness=(0.97, 1.0),
)
SHIFTED = Domain(
    radius={"close-up": (0.64, 0.70), "wide": (0.25, 0.28)},
    travel={"slowly": (0.20, 0.25), "fast": (1.10, 1.20)},
    hue=(10.0, 16.0),
    brightness=(0.85, 0.88),
)
FAR = Domain(
    radius={"close-up": (0.74, 0.80), "wide": (0.20, 0.23)},
    travel={"slowly": (0.14, 0.17), "fast": (1.30, 1.40)},
    hue=(20.0, 26.0),
    brightness=(0.70, 0.75),
)
DOMAINS: Mapping[Split, Domain] = {"pretraining": BROAD, "train": NARROW, "val": NARROW, "ood": SHIFTED, "far": FAR}
"""Ranges of each split. Those of "ood" lie outside those of the pairs and inside those of "pretraining"."""

COLOURS = {
    "red": (235, 25, 25),
    "green": (20, 215, 50),
    "blue": (25, 70, 255),
    "yellow": (255, 225, 15),
    "purple": (185, 35, 225),
    "white": (255, 255, 255),
}
BACKDROPS = {
    "beach": ((105, 150, 165), (160, 140, 100), (70, 115, 150)),
    "forest": ((55, 100, 55), (105, 75, 50), (38, 72, 38)),
    "city": ((60, 60, 68), (150, 150, 135), (0, 0, 0)),
    "desert": ((180, 115, 65), (140, 80, 45), (0, 0, 0)),
}
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ZOOMS = {"zooms in": (0.8, 1.25), "zooms out": (1.25, 0.8)}

SUBJECT, INNER_LINE, OUTER_LINE = 3, 4, 5  # palette indices after the three colours of a backdrop
NIGHT_BACKDROP, NIGHT_SUBJECT = (0.38, 0.42, 0.58), 0.75
FLICKER, GRAIN = 0.58, (0.72, 1.28)
NUM_GRAINS, NUM_BLOCKS = 32, 20  # cells per side of the grainy and the pixelated look


def draw(scene: Scene, rng: np.random.Generator, domain: Domain, *, size: int, num_frames: int) -> NDArray[np.uint8]:
    """Draw all frames of one video.

    Args:
        scene: Scene to show.
        rng: Random generator for what the scene leaves open: start, exact size and speed, phase of the backdrop, shake
            and grain.
        domain: Ranges of these draws.
        size: Width and height of the video in pixels.
        num_frames: Number of frames.

    Returns:
        RGB frames, `[num_frames, size, size, 3]` uint8.

    >>> scene = Scene("circle", "red", "left", "slowly", "zooms in", "wide", "beach", "night", "flat", "steady")
    >>> draw(scene, np.random.default_rng(0), NARROW, size=32, num_frames=4).shape
    (4, 32, 32, 3)
    """
    x, y = _camera(scene.movement, rng, size, num_frames)
    index = _backdrop(scene.setting, x, y, rng)
    radius = rng.uniform(*domain.radius[scene.shot])
    left, top = _path(scene, rng, domain, radius, num_frames)
    distance = radius * _distance(scene.shape, (x - left) / radius, (y - top) / radius)
    if scene.look == "outlined":
        index[distance < 0.14] = OUTER_LINE
        index[distance < 0.07] = INNER_LINE
    index[distance < 0] = SUBJECT
    palette = _palette(scene, rng, domain, num_frames)  # [T, 2 grains, 6, 3]
    index += (np.arange(num_frames) * palette[0, ..., 0].size)[:, None, None]
    if scene.look == "pixelated":
        centres = ((np.arange(size) * NUM_BLOCKS // size + 0.5) * size / NUM_BLOCKS).astype(np.intp)
        index = index[:, centres][:, :, centres]
    if scene.look == "grainy":
        cells = np.arange(size) * NUM_GRAINS // size
        index += rng.integers(2, size=(NUM_GRAINS, NUM_GRAINS))[cells][:, cells] * palette.shape[2]
    return palette.reshape(-1, 3).take(index, axis=0)


def _camera(movement: str, rng: np.random.Generator, size: int, num_frames: int) -> tuple[Floats, Floats]:
    """Return the world coordinates of each column [T, 1, W] and each row [T, H, 1] of the frames."""
    pixels = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    scale = np.geomspace(*ZOOMS.get(movement, (1.0, 1.0)), num_frames, dtype=np.float32)[:, None, None]
    right = down = np.zeros_like(scale)
    if movement == "shakes":
        signs = np.array([_thue_morse(num_frames, int(start)) for start in rng.integers(64, size=2)]) * 2 - 1
        jolts = (signs * rng.uniform(0.07, 0.11, signs.shape)).astype(np.float32)
        right, down = jolts[..., None, None]
    return pixels[None, None] / scale + right, pixels[None, :, None] / scale + down


def _path(
    scene: Scene, rng: np.random.Generator, domain: Domain, radius: float, num_frames: int
) -> tuple[Floats, Floats]:
    """Return the centre of the subject, x and y, each [T, 1, 1]; halfway it is near the middle, so it stays in view."""
    way = rng.uniform(*domain.travel[scene.speed]) * np.linspace(-0.5, 0.5, num_frames)
    # A zoom moves what is off-centre outwards or inwards, which would look like motion: stay near the middle.
    room = 0.1 if scene.movement in ZOOMS else max(0.05, 0.7 - radius)
    middle = rng.uniform(-room, room, 2)
    along = np.array(DIRECTIONS[scene.motion])
    if scene.speed == "fast":
        middle[along != 0] *= 0.15
    left, top = (middle[:, None] + along[:, None] * way).astype(np.float32)
    return left[:, None, None], top[:, None, None]


def _distance(shape: str, x: Floats, y: Floats) -> Floats:
    """Return the signed distance to the edge of a shape of radius 1, negative inside: [T, H, W]."""
    distance: Floats
    if shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - 0.95
    elif shape == "triangle":  # tip up; the numbers are the unit normal of its right edge
        distance = np.maximum(0.88 * np.abs(x) - 0.47 * y - 0.47, y - 0.8)
    elif shape == "cross":
        x, y = np.abs(x), np.abs(y)
        distance = np.minimum(np.maximum(x - 1, y - 0.33), np.maximum(x - 0.33, y - 1))
    elif shape == "circle":
        distance = np.sqrt(x * x + y * y) - 1
    else:
        distance = np.abs(np.sqrt(x * x + y * y) - 0.75) - 0.27
    return distance


def _backdrop(setting: str, x: Floats, y: Floats, rng: np.random.Generator) -> Indices:
    """Return the index of the setting's colour at each pixel, 0, 1 or 2: [T, H, W]."""
    phase = rng.uniform()
    index: Indices
    if setting == "beach":  # waves above sand
        rows = np.where(y > 0.1 + 0.2 * phase, 1, np.where((y * 4 + phase) % 1 < 0.35, 2, 0))
        index = np.repeat(rows, x.shape[2], axis=2)
    elif setting == "forest":  # trunks before leaves
        index = np.where((x * 2 + phase) % 1 < 0.4, 1, np.where((y * 3 + phase) % 1 < 0.3, 2, 0))
    elif setting == "city":  # windows in a wall
        index = np.where(((x * 2.5 + phase) % 1 < 0.5) & ((y * 2.5 + phase) % 1 < 0.5), 1, 0)
    else:  # dunes
        index = np.where((x + y * 2 + phase) % 1 < 0.4, 1, 0)
    return index


def _palette(scene: Scene, rng: np.random.Generator, domain: Domain, num_frames: int) -> NDArray[np.uint8]:
    """Return the palette of every frame, without and with grain: [T, 2, 6, 3]."""
    colours: Floats = np.array((*BACKDROPS[scene.setting], COLOURS[scene.colour], (0, 0, 0), (255, 255, 255)), float)
    colours = colours @ _hue_turn(rng.uniform(*domain.hue) * rng.choice((-1, 1))) * rng.uniform(*domain.brightness)
    if scene.light == "night":
        colours[:SUBJECT] *= NIGHT_BACKDROP
        colours[SUBJECT:] *= NIGHT_SUBJECT
    grains = np.array(GRAIN if scene.look == "grainy" else (1.0, 1.0))
    flicker = np.where(_thue_morse(num_frames, int(rng.integers(64))) & (scene.quality == "flickers"), FLICKER, 1.0)
    palette: NDArray[np.uint8] = (
        (colours * grains[:, None, None] * flicker[:, None, None, None]).clip(0, 255).astype(np.uint8)
    )
    return palette


def _hue_turn(degrees: float) -> Floats:
    """Return the matrix that rotates RGB rows about the grey axis: [3, 3]."""
    angle = np.deg2rad(degrees)
    cross = np.array(((0, 1, -1), (-1, 0, 1), (1, -1, 0))) / np.sqrt(3)
    turn: Floats = (np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross).astype(np.float32)
    return turn


def _thue_morse(length: int, start: int) -> NDArray[np.bool_]:
    """Return bits of the Thue-Morse sequence, which change at every power-of-two stride: visible at any frame rate."""
    return np.array([(start + i).bit_count() % 2 == 1 for i in range(length)])

"""Pixel statistics are read from every file that a version of transformers writes them to, and never guessed."""

import json
from pathlib import Path

import pytest

from descore.inputs.backbone import Backbone
from descore.inputs.pixel_statistics import read_pixel_statistics
from descore.inputs.typed_json import FileError

HALVES = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
OTHERS = {"image_mean": [0.4, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
PLAIN, VIDEO, NESTED = "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"


def write(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config": HALVES},
        {"video_preprocessor_config": HALVES},
        {"preprocessor_config": HALVES, "video_preprocessor_config": HALVES | {"size": {}}},
        {"processor_config": {"processor_class": "Qwen3VLProcessor", "video_processor": HALVES}},
        {"processor_config": {"image_processor": HALVES}},
        {"processor_config": {"image_processor": HALVES, "video_processor": HALVES}, "preprocessor_config": HALVES},
        {"processor_config": {"processor_class": "Qwen3VLProcessor"}, "preprocessor_config": HALVES},
        {"video_preprocessor_config": {"size": {}}, "preprocessor_config": HALVES},
    ],
)
def test_statistics_are_found_in_either_layout(tmp_path, files):
    found = read_pixel_statistics(write(tmp_path, **files))
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config": HALVES, "video_preprocessor_config": OTHERS},
        {"preprocessor_config": HALVES, "processor_config": {"video_processor": OTHERS}},
        {"processor_config": {"video_processor": OTHERS, "image_processor": HALVES}},
    ],
)
def test_statistics_that_disagree_are_refused_with_both_places(tmp_path, files):
    with pytest.raises(
        FileError, match=r"expected the same image_mean and image_std everywhere, got .*: mean .*; .*mean"
    ):
        read_pixel_statistics(write(tmp_path, **files))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, f"in {PLAIN}, {VIDEO} or {NESTED}, found them in none"),
        ({"processor_config": {"processor_class": "Qwen3VLProcessor"}}, "found them in none"),
        ({"processor_config": {"video_processor": [1]}}, f"{NESTED}: expected an object for video_processor"),
        ({"preprocessor_config": [HALVES]}, f"{PLAIN}: expected a JSON object"),
        ({"preprocessor_config": {"image_mean": [0.5] * 3}}, f"{PLAIN}: image_std: expected"),
        ({"preprocessor_config": HALVES | {"image_mean": 0.5}}, f"{PLAIN}: image_mean: expected"),
        ({"preprocessor_config": HALVES | {"image_mean": [0.5, 0.5]}}, "expected three numbers from 0 to 1"),
        ({"preprocessor_config": HALVES | {"image_std": [0.5, 0, 0.5]}}, "expected three numbers from 0 to 1"),
        (
            {"preprocessor_config": HALVES | {"image_mean": [0.5, True, 0.5]}},
            r"image_mean\[1\]: expected float, got true",
        ),
        (
            {"preprocessor_config": HALVES | {"image_mean": [0.5, float("nan"), 0.5]}},
            "expected finite numbers, got NaN",
        ),
        (
            {"processor_config": {"video_processor": HALVES | {"image_std": [127, 127, 127]}}},
            f"{NESTED}: expected three numbers from 0 to 1 for image_std",
        ),
    ],
)
def test_statistics_that_are_absent_or_no_statistics_are_refused(tmp_path, files, message):
    with pytest.raises(FileError, match=message):
        read_pixel_statistics(write(tmp_path, **files))


def test_a_backbone_of_transformers_5_is_read(backbones, tmp_path):
    for path in backbones["qwen3_vl"].iterdir():
        if path.name != PLAIN:
            (tmp_path / path.name).symlink_to(path)
    write(tmp_path, processor_config={"video_processor": HALVES, "image_processor": HALVES})
    assert Backbone.read(str(tmp_path)).image_std == (0.25, 0.25, 0.25)

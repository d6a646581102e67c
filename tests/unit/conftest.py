"""What tests of several rooms start from."""

import json
import shutil
from pathlib import Path

import pytest

from data_modules.world.rendering import RenderSettings, render_split
from descore.scoring.scorer import Scorer
from tests.conftest import Build
from tests.helpers.examples import export_model
from tests.helpers.tables import SCORES_CELL


@pytest.fixture(scope="session")
def world(backbones: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny backbone, twelve training pairs, and two validation tables of three; the first prompt is hostile."""
    # Imported at the top, before pytest takes logs, Lightning would write them to handlers of its own.
    from tests.helpers.fitting import HOSTILE

    root = tmp_path_factory.mktemp("world")
    (root / "backbone").symlink_to(backbones["qwen3_vl"])
    for split, num_pairs in (("train", 12), ("val", 3), ("ood", 3)):
        table = render_split(root, split, num_pairs, RenderSettings(size=48, num_frames=4), 0)
        first, *rest = table.read_text().splitlines()
        table.write_text("\n".join([json.dumps(json.loads(first) | {"prompt": HOSTILE}), *rest]))
    return root


@pytest.fixture(scope="session")
def export(build: Build, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The exported folder of a model whose rewards are far apart."""
    return export_model(build(max_thought_tokens=4), tmp_path_factory.mktemp("model") / "export")


@pytest.fixture(scope="session")
def scorer(export: str) -> Scorer:
    return Scorer(export, device="cpu")


@pytest.fixture(scope="session")
def data(clips: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pairs of four clips and two prompts, which are six (video, prompt)."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos").mkdir()
    for index, clip in enumerate(clips):
        shutil.copy(clip, folder / f"videos/{index}.mp4")
    rows = [("a bar", 0, 1, "A"), ("a bar", 1, 2, "tie"), ("a cat", 3, 0, "B"), ("a bar", 0, 3, "A")]
    records = [
        {
            "id": f"p{index}",
            "prompt": prompt,
            "video_a": f"videos/{a}.mp4",
            "video_b": f"videos/{b}.mp4",
            "preference": preference,
            "scores_a": SCORES_CELL,
            "generator_a": f"g{a}",
            "generator_b": f"g{b}",
        }
        for index, (prompt, a, b, preference) in enumerate(rows)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder

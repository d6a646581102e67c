"""What tests of several rooms start from."""

import json
from pathlib import Path

import pytest

from data_modules.world.rendering import RenderSettings, render_split


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

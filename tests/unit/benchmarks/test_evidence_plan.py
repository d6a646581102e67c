"""The plan of the evidence is whole, and its tasks come after what they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.evidence.plan import FULL, PARADIGMS, QUICK, Scale, tasks


@pytest.mark.parametrize("scale", [FULL, QUICK], ids=["full", "quick"])
def test_the_plan_trains_every_paradigm_with_every_seed(scale: Scale, tmp_path: Path) -> None:
    found = tasks(scale, tmp_path)
    names = [task.name for task in found]
    assert len(set(names)) == len(names)
    assert all(set(task.needs) <= set(names[:place]) for place, task in enumerate(found))
    for seed in scale.seeds:
        assert {f"{what}-{name}-{seed}" for what in ("train", "measure") for name in PARADIGMS} <= set(names)
        assert f"train-decoupled-{scale.smaller[0]}-{seed}" in names

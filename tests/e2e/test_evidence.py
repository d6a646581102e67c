"""All of the evidence at a toy scale, from rendering to the page in a browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from selenium.webdriver.common.by import By

from benchmarks.evidence.data import prepare
from benchmarks.evidence.measure import HEADS, evaluation_of
from benchmarks.evidence.page import show
from benchmarks.evidence.plan import Scale, tasks
from benchmarks.evidence.results import gather
from benchmarks.evidence.schedule import run_tasks
from descore.evaluation.folder import load_evaluation
from tests.helpers.browsing import PHONE, check_quiet, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TOY = Scale(
    seeds=(0,),
    num_train=32,
    smaller=(16,),
    num_held_out=12,
    epochs=1,
    val_every=2,
    num_val=4,
    rollout_batches=2,
    rollout_val_every=1,
    fit_pairs=8,
    num_thoughts=2,
    num_thought_pairs=6,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    prepare(folder, TOY.num_train, TOY.smaller, TOY.num_held_out)
    run_tasks(tasks(TOY, folder), folder, jobs=2)
    show(folder, TOY, gather(folder, TOY))
    return folder


def test_it_goes_on_with_nothing_to_do_and_comes_to_the_same(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    found = (root / "results.json").read_bytes()
    prepare(root, TOY.num_train, TOY.smaller, TOY.num_held_out)
    run_tasks(tasks(TOY, root), root, jobs=2)
    touched = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert not {path for path in touched if not path.is_relative_to(root / "data") or path.suffix == ".mp4"}
    gather(root, TOY)
    assert (root / "results.json").read_bytes() == found


def test_a_head_that_is_given_its_own_thoughts_repeats_its_rewards(root: Path) -> None:
    swapped = json.loads((root / "measured/swap-0.json").read_text())
    for head in HEADS:
        for split, written in swapped[head].items():
            margins = load_evaluation(evaluation_of(root, f"{head}-0", split)).margins("overall")
            given = torch.tensor(written[head], dtype=torch.float64)
            torch.testing.assert_close(given, margins, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [PHONE, (1280, 900)])
def test_the_page_shows_every_comparison(root: Path, browser, size: tuple[int, int]) -> None:
    check_quiet(opened(browser, root / "evidence.html", size))
    headings = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert "Do better thoughts give better rewards?" in headings
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) >= 15
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert browser.find_element(By.CSS_SELECTOR, ".prompt").text

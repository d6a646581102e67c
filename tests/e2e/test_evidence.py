"""All of the evidence as one quick command, from rendering to the page in a browser; and the examples in its code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from selenium.webdriver.common.by import By

from descore.evaluation.folder import load_evaluation
from tests.helpers.browsing import PHONE, check_quiet, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REPOSITORY = Path(__file__).parents[2]
COMMAND = "benchmarks.evidence"
ALL = ("--quick", "--systems")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    done = run(COMMAND, *ALL, "--root", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder / "evidence.html")
    return folder


def test_a_finished_run_resumes_with_nothing_to_do(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    found = (root / "results.json").read_bytes()
    done = run(COMMAND, *ALL, "--root", str(root))
    assert "tasks left" not in done.stderr
    touched = {path.relative_to(root).parts[0] for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert touched <= {"data", "results.json", "figures", "evidence.html"}
    assert (root / "results.json").read_bytes() == found


def test_a_task_that_fails_shows_its_log(tmp_path: Path) -> None:
    done = run(COMMAND, *ALL, "--root", str(tmp_path), "--only", "measure-decoupled-0")
    assert done.returncode == 1
    assert "evidence: measure-decoupled-0 failed" in done.stderr
    assert f"The end of {tmp_path}/logs/measure-decoupled-0.txt" in done.stderr


def test_tasks_that_finished_with_other_arguments_are_refused(root: Path) -> None:
    mark = root / "done/train-decoupled-0.json"
    text = mark.read_text()
    mark.write_text(text.replace('"--seed_everything", "0"', '"--seed_everything", "1"'))
    done = run(COMMAND, *ALL, "--root", str(root))
    mark.write_text(text)
    assert done.returncode == 1
    assert "train-decoupled-0 has finished with" in done.stderr
    assert "remove the mark" in done.stderr


def test_a_head_that_is_given_its_own_thoughts_repeats_its_rewards(root: Path) -> None:
    swapped = json.loads((root / "measured/swap-0.json").read_text())
    for head in ("decoupled", "decoupled_rl"):
        for split, written in swapped[head].items():
            margins = load_evaluation(root / "evaluations" / f"{head}-0" / split).margins("overall")
            given = torch.tensor(written[head], dtype=torch.float64)
            torch.testing.assert_close(given, margins, atol=1e-4, rtol=0)


def test_what_the_order_of_the_videos_changes_is_counted_for_models_that_compare(root: Path) -> None:
    found = json.loads((root / "results.json").read_text())["systems"]["ood"]
    counted = {name for name, arm in found.items() if arm["order"]}
    assert {"unifiedreward", "rewarddance", "unifiedreward_think"} <= counted
    assert "videoalign" not in counted
    evaluation = load_evaluation(root / "evaluations/rewarddance-0/ood")
    changes = [one["verdict_changes"] for one in evaluation.comparisons]
    assert found["rewarddance"]["order"]["verdict_changes"] == pytest.approx(sum(changes) / len(changes))
    assert "Order of the two videos" in (root / "evidence.html").read_text()


@pytest.mark.parametrize("size", [PHONE, (1280, 900)])
def test_the_page_shows_every_comparison(root: Path, browser, size: tuple[int, int]) -> None:
    check_quiet(opened(browser, root / "evidence.html", size))
    headings = [heading.text for heading in browser.find_elements(By.TAG_NAME, "h2")]
    assert {"Do better thoughts give better rewards?", "Published systems"} <= set(headings)
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) >= 15
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    assert browser.find_element(By.CSS_SELECTOR, ".prompt").text


def test_exported_models_are_compared_on_the_same_pairs(root: Path, tmp_path: Path) -> None:
    export = root / "training/decoupled-0/version_0/export/last"
    models = [f"before={export}", f"after={export},{export}"]
    options = ["--against", "before", "--pairs", "4", "--splits", "val", "--root", str(tmp_path)]
    done = run(f"{COMMAND}.accuracy", *models, *options)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert rows[0] == ["split", "measure", "n", "before", "after", "after - before"]
    assert len(rows) == 2 + 6
    assert all(row[-1] == "+0.000 (+0.000 to +0.000)" for row in rows[2:])


def test_the_examples_in_the_code_are_right() -> None:
    done = run("pytest", "-q", "--doctest-modules", "benchmarks/evidence")
    assert "passed" in done.stdout, done.stdout
    assert done.returncode == 0, done.stdout

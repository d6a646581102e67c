"""How the runs of a page are named."""

from pathlib import Path

import pytest

from descore.evaluation.comparison import name_runs


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["/runs/a"], ["a"]),
        (["/runs/a", "/runs/b"], ["a", "b"]),
        (["/runs/a/val", "/runs/b/val", "/runs/c"], ["a/val", "b/val", "runs/c"]),
        (["/runs/a", "/runs/b", "/runs/b"], ["a", "b", "b (3)"]),
        (["/runs/a", "/runs/a", "/runs/a"], ["a", "a (2)", "a (3)"]),
    ],
)
def test_runs_have_the_shortest_names_that_tell_them_apart(folders, names):
    assert name_runs([Path(folder) for folder in folders]) == names

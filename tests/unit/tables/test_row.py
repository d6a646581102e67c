"""The cells of one row: which are empty, which are numbers, and which labels are ties."""

import math

import pytest

from descore.tables.faults import NO_LABEL, BadCell, MissingColumn
from descore.tables.row import Row

LEGAL = {"A": 1.0, "B": -1.0, "same": 0.0, "both bad": 0.0, "invalid": math.nan}


def row(ties: list[str] | None = None, **cells: object) -> Row:
    return Row("folder/t.csv", 3, list(cells), cells, row_names="t:", ties=ties)


@pytest.mark.parametrize("cell", ["nan", "inf", "-inf", "good", True, [1]])
def test_what_is_no_finite_number_is_refused(cell):
    with pytest.raises(BadCell, match="expected a number"):
        row(mos=cell).numbers(["mos"])


@pytest.mark.parametrize("cell", [None, math.nan, "", "  "])
def test_an_empty_cell_is_no_number_beside_others(cell):
    assert row(one=cell).numbers(["one", "absent"]) == ()
    first, second = row(one=cell, two=" 3.5").numbers(["one", "two"])
    assert math.isnan(first)
    assert second == 3.5


def test_labels_in_any_case_and_which_of_them_are_ties():
    cells = {"first": "a", "second": " SAME ", "third": "both bad"}
    assert row(**cells).labels(list(cells), LEGAL) == (1, 0, 0)
    found = row(["same"], **cells).labels(list(cells), LEGAL)
    assert found[:2] == (1, 0)
    assert math.isnan(found[2])
    with pytest.raises(ValueError, match="draw"):
        row(["draw"], **cells).labels(list(cells), LEGAL)


def test_a_row_without_a_usable_label_says_so():
    with pytest.raises(BadCell, match=NO_LABEL):
        row(first="invalid", second="Invalid").labels(["first", "second"], LEGAL)
    with pytest.raises(BadCell, match="expected A, B, same"):
        row(first="C").labels(["first"], LEGAL)


def test_names_numbers_and_columns():
    assert row(prompt="a cat").id() == "t:3"
    assert row(id=17).id() == "17"
    assert row(video="a.mp4").video("path", "video") == "folder/a.mp4"
    with pytest.raises(MissingColumn, match="path or video"):
        row(prompt="a cat").video("path", "video")

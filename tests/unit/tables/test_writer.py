"""A table that is written is read back as it was."""

import math
from pathlib import Path

import pytest

from descore.tables.pairs import PairTable, read_pairs
from descore.tables.writer import write_pairs
from descore.types import Pair, Side
from tests.helpers.tables import SCORES, labels


class TestWritePairs:
    def test_round_trip(self, folder: Path) -> None:
        prompt = ' "quoted", two\nlines\u2028and Umlaut ü '
        a = Side(str(folder / "a.mp4"), "<think>x</think>", SCORES, (1.5,))
        b = Side(str(folder / "b.mp4"), scores=dict.fromkeys(SCORES), mos=(0.1 + 0.2,))
        pairs = (
            Pair("a-1", prompt, a, b, (1.0,)),
            Pair("2", "p", b, Side(a.video), (0.0,)),
            Pair("3", "p", a, b, (-1.0,)),
        )
        write_pairs(folder / "t.jsonl", pairs)
        assert read_pairs(folder / "t.jsonl") == PairTable(pairs, ())
        assert {path.name for path in folder.iterdir()} == {"a.mp4", "b.mp4", "t.jsonl"}

    def test_round_trip_of_several_dimensions(self, folder: Path) -> None:
        a, b = Side(str(folder / "a.mp4"), mos=(1.0, math.nan)), Side(str(folder / "b.mp4"), mos=(2.0, 3.0))
        pairs = (Pair("1", "p", a, b, (math.nan, -1.0)), Pair("2", "p", a, b, (0.0, 1.0)))
        write_pairs(folder / "t.jsonl", pairs, dimensions=("VQ", "TA"))
        assert read_pairs(folder / "t.jsonl", dimensions=("VQ", "TA")).pairs == pairs
        assert labels(read_pairs(folder / "t.jsonl", dimensions=("TA",))) == [(-1.0,), (1.0,)]

    def test_the_table_moves_with_its_videos(self, folder: Path) -> None:
        (folder / "sub").mkdir()
        pair = Pair("1", "p", Side(str(folder / "a.mp4")), Side(str(folder / "sub/../b.mp4")), (1.0,))
        write_pairs(folder / "t.jsonl", [pair])
        write_pairs(folder / "sub/t.jsonl", [pair])
        moved = folder.rename(folder.with_name("moved"))
        assert read_pairs(moved / "t.jsonl").pairs[0].a.video == str(moved / "a.mp4")
        outside = Path(read_pairs(moved / "sub/t.jsonl").pairs[0].a.video)
        assert outside.resolve() == (moved / "a.mp4").resolve()

    @pytest.mark.parametrize("preference", [(math.nan,), (0.5,), (1.0, 1.0), ()])
    def test_refuses_what_could_not_be_read_back(self, folder: Path, preference: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="pair 'p1': expected a preference of"):
            write_pairs(folder / "t.jsonl", [Pair("p1", "p", Side("a.mp4"), Side("b.mp4"), preference)])
        assert not (folder / "t.jsonl").exists()

    def test_refuses_another_format(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"ends in \.jsonl, got 't\.csv'"):
            write_pairs(folder / "t.csv", [])

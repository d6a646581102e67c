"""Every fault that is put into the code on purpose fails a test."""

from __future__ import annotations

import pytest

from tests.robustness.mutants import MUTANTS, main


def test_the_table_of_faults_is_true() -> None:
    assert len({str(mutant) for mutant in MUTANTS}) == len(MUTANTS)
    problems = [problem for mutant in MUTANTS for problem in mutant.problems()]
    assert not problems, "\n".join(["", *problems])


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)
def test_every_fault_is_noticed() -> None:
    assert main(["--jobs", "2"]) == 0

"""Commands of the project, run in this process."""

from __future__ import annotations

import re

import pytest

from descore.cli import main


def refused(capsys: pytest.CaptureFixture[str], reason: str, *args: object) -> str:
    """Run a command that ends with exit code 2 and a message that matches; return the message."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([*map(str, args)])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert printed.out == ""
    assert re.search(reason, printed.err), printed.err
    return printed.err

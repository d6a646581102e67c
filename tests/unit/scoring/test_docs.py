"""The Python of docs/scoring.md that scores runs as it stands there, one snippet after the other."""

import ast
import asyncio
import re
from inspect import CO_COROUTINE
from pathlib import Path

PAGE = Path(__file__).parents[3] / "docs" / "scoring.md"


def run(snippet: str, names: dict[str, object]) -> None:
    code = compile(snippet, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    found = eval(code, names)
    if code.co_flags & CO_COROUTINE:
        asyncio.run(found)


def test_the_snippets_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second, *_ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    run(first, names)
    assert capsys.readouterr().out.count("<think>") == 6
    run(second, names)

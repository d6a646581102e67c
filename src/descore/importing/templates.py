"""Instructions as they were published, in the form of this project's templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from descore.inputs.prompts import PLACEHOLDER, Query
from descore.inputs.typed_json import FileError

PUBLISHED_PLACEHOLDER = "{text_prompt}"


def read_template(
    path: str | None, queries: Mapping[str, str], *, module: str, places: Mapping[str, str] | None = None
) -> str:
    """Read the instruction of a published model, to the letter.

    Args:
        path: Text file of the instruction.
        queries: Name of the reward that each published query token reads; "" for one that reads all.
        module: Published file and name of the instruction, for the error.
        places: What the published text has in the place of a part of a template.

    Raises:
        FileError: If the file is missing, or has the prompt or a query token not exactly once.
    """
    if path is None or not Path(path).is_file():
        found = "none" if path is None else f"{path}, which is no file"
        raise FileError(
            f"expected the instruction of the published code as a text file, got {found}: write {module} to a file, "
            "and name it with --template"
        )
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: expected UTF-8: {error}") from error
    for published, part in {PUBLISHED_PLACEHOLDER: PLACEHOLDER, **(places or {})}.items():
        text = text.replace(published, part)
    for token, name in queries.items():
        if text.count(token) != 1:
            raise FileError(f"{path}: expected {token} once, found it {text.count(token)} times")
        text = text.replace(token, f"{{query:{name}}}" if name else "{query}")
    if text.count(PLACEHOLDER) != 1:
        raise FileError(f"{path}: expected {PUBLISHED_PLACEHOLDER} once, found it {text.count(PLACEHOLDER)} times")
    return text


def query_tokens(queries: Mapping[str, str], ids: Mapping[str, int]) -> dict[str, int]:
    """Return the published id of each query token of this project, for those that a published tokenizer has."""
    return {Query(name).token: ids[token] for token, name in queries.items() if token in ids}


def template_file(path: str | None) -> dict[str, Path]:
    """Return the file of a template, to be recorded with the others."""
    return {} if path is None else {f"template:{Path(path).name}": Path(path)}

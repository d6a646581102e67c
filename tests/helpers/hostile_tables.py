"""Tables that no one should write, each from its seed: broken text and bytes around cells of every kind."""

import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

_SCORES = '{"subject": 2, "dynamics": 1, "camera": "N/A", "environment": 0, "style": 2}'
_ANSWER = (
    f'<answer>{{"video_1_scores": {_SCORES}, "video_2_scores": {_SCORES}, "gsb_result": "Video 1 is better"}}</answer>'
)
_OURS = {"prompt": "a cat", "video_a": "a.mp4", "video_b": "b.mp4", "preference": "A"}
LAYOUTS = {
    "descore": _OURS | {"cot_a": "<think>", "scores_a": _SCORES, "mos_a": "3.5", "generator_b": "g"},
    "descore_stage1": {"prompt": "p", "videos": "['a.mp4', 'b.mp4']", "CoT_A": "t", "CoT_B": "t", "GSB": "same"},
    "descore_stage2": {"prompt": "p", "videos": "['a.mp4', 'b.mp4']", "answer": _ANSWER},
    "genai_bench": {"prompt": "p", "left_video": "a.mp4", "right_video": "b.mp4", "vote_type": "tievote"},
    "mj_bench_video": {"caption": "p", "video_0_path": "a.mp4", "video_1_path": "b.mp4", "overall_preference": "Same"},
    "videoalign": {"prompt": "p", "path_A": "a.mp4", "path_B": "b.mp4", "Overall": "A", "MOS_A_Overall": "1"},
    "vision_reward_db": {"caption": "p", "video1_path": "a.mp4", "video2_path": "b.mp4", "standard_answer": "tie"},
    "worldreward_bench": {
        "pair_id": "7",
        "input_caption": "p",
        "actions": ["forward"],
        "left": {"video": "a.mp4", "model": "g"},
        "right": {"video": "b.mp4"},
        "label": {"action": "left", "appearance": "right", "motion": "tie", "overall": "tie"},
    },
    "descore_videos": {"id": "7", "prompt": "p", "video": "a.mp4", "mos": "2"},
    "videofeedback": {"video_path": "a.mp4", "text prompt": "p", "visual quality": "3"},
}
"""A good row of each layout."""
DEEP, LONG = "[" * 1200 + "]" * 1200, "7" * 4400
TEXTS = [
    "", " ", "A", "B", "tie", "invalid", "a.mp4", "b.mp4", "a cat", "007", "nan", "-inf", "1e999", "NULL",
    "=1+1", "\0", "\ud800", "\u2028", "\x85", "\x1a", 'quote"', "'", ",", ";", "\t", "a\nb", "a\r\nb", "\\", "[", "{}",
    "[]", "null", "true", DEEP, LONG,
    "['a.mp4', 'b.mp4']", "{[]: 1}", "['\\ud800', '\\0']", "-" * 3000 + "1", "(" * 300, "'\\N{x}'", "1_0",
    "tar://a::b::c", "s3://", "::", "://", "x" * 140_000, "<answer>" * 50, f"<answer>{DEEP}</answer>",
    f'{{"subject": {LONG}}}', "<answer>{}</answer>", "é\u0301\u202e",
    _SCORES, '{"subject": 2, "subject": 1}', "../" * 2000, "/" * 5000,
]  # fmt: skip
VALUES = [
    None, True, 0, -1, 3.5, 2**70, 10**400, 1e300, float("nan"), float("inf"), [], {}, ["a.mp4", "b.mp4"], ["a", 1],
    {"a": {"b": [None]}},
]  # fmt: skip
RAW = [  # of JSON
    "NaN", "-Infinity", LONG, "-" + LONG, "1e999", DEEP, '{"a":' * 1200 + "1" + "}" * 1200,
    '{"prompt": "a", "prompt": "b"}', '"\\ud800"',
    "[[" * 60 + "]]" * 60, '{"x": {"y": 1, "y": 2}}', '"', "{", "[", "]", "nul", "'a'", "01", "1.", '"\\u12"', "{}", "",
    "// no", '{"a": 1,}',
]  # fmt: skip


def hostile_table(seed: int) -> tuple[str, bytes, str]:
    """Draw a table.

    Returns:
        The ending of its name, its content, and the preset to read it with.
    """
    draw = random.Random(seed)
    preset = draw.choice(list(LAYOUTS))
    ending = draw.choice(list(_WRITERS))
    content = _WRITERS[ending](draw, _rows(draw, LAYOUTS[preset]))
    return draw.choice([ending, ending, ending.upper()]), _damaged(draw, content), preset


def _rows(draw: random.Random, good: dict[str, str]) -> list[dict[str, Any]]:
    """Draw up to five rows, of which about half have a hostile cell."""
    rows: list[dict[str, Any]] = []
    for _ in range(draw.randrange(6)):
        rows.append(dict(good))
        for column in good:
            if draw.random() < 0.12:
                rows[-1][column] = draw.choice(TEXTS if draw.random() < 0.7 else VALUES)
        if draw.random() < 0.3:
            rows[-1]["extra"] = draw.choice(TEXTS + VALUES)
    return rows


def _csv(draw: random.Random, rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    styles = {
        "quoting": draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
        "lineterminator": draw.choice(["\n", "\r\n", "\r"]),
    }
    writer = csv.writer(text, delimiter=draw.choice(",,,;\t|"), **styles)
    header = [*(rows[0] if rows else ["prompt"])]
    writer.writerow([*header, *draw.choice([*[[]] * 8, header[:1], ["", ""], [" "]])])
    for row in rows:
        cells = list(row.values())
        writer.writerow(draw.choice([*[cells] * 9, cells[:-1], [*cells, "more"], [], [""] * len(cells)]))
    written = text.getvalue()
    encoding = draw.choice([*["utf-8"] * 8, "utf-8-sig", "latin-1", "utf-16", "utf-16-le", "utf-32-be"])
    return written.encode(encoding, draw.choice(["surrogatepass", "replace"]) if encoding != "latin-1" else "replace")


def _object(draw: random.Random, row: dict[str, Any]) -> str:
    items = [
        (json.dumps(key), json.dumps(value) if draw.random() < 0.97 else draw.choice(RAW)) for key, value in row.items()
    ]
    items += draw.choice([*[[]] * 12, items[:1]])
    return "{" + ", ".join(f"{key}: {value}" for key, value in items) + "}"


def _jsonl(draw: random.Random, rows: list[dict[str, Any]]) -> bytes:
    lines = [_object(draw, row) if draw.random() < 0.9 else draw.choice(RAW) for row in rows]
    return draw.choice(["\n", "\r\n", "\n\n"]).join(lines).encode()


def _json(draw: random.Random, rows: list[dict[str, Any]]) -> bytes:
    values = [_object(draw, row) if draw.random() < 0.9 else draw.choice(RAW) for row in rows]
    return (
        draw
        .choice([*["[{}]"] * 9, " [ {} ]\n", "[{}", "{}", "[{}]]", '{{"rows": [{}]}}'])
        .format(",\n".join(values))
        .encode()
    )


def _parquet(draw: random.Random, rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    names = [*(rows[0] if rows else ["prompt"])]
    columns = [_column(draw, [row.get(name) for row in rows]) for name in names]
    if draw.random() < 0.1:
        names, columns = [*names, names[0]], [*columns, columns[0]]
    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_arrays(columns, names=names), file)
    return file.getvalue()


def _column(draw: random.Random, cells: list[Any]) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        column = pyarrow.array(cells if draw.random() < 0.5 else [str(cell) for cell in cells])
        parquet.write_table(pyarrow.table({"cells": column}), io.BytesIO())
    except (pyarrow.ArrowException, OverflowError, UnicodeError):
        return pyarrow.array([repr(cell).encode() for cell in cells])
    return column


def _damaged(draw: random.Random, content: bytes) -> bytes:
    """Most tables stay as they are; some are cut, changed in a few bytes, or have something else before them."""
    kind, where = draw.randrange(14), draw.randrange(len(content) + 1)
    if kind == 0:
        return content[:where]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(draw.randrange(1, 20)):
            if changed:
                changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    if kind == 2:
        return draw.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"PK\x03\x04", b"\x1f\x8b", b"\n\n", b"\0"]) + content
    if kind == 3:
        return (
            content[:where] + draw.choice([b"\xff", b"\0", b'"', b"\xed\xa0\x80", b"\r", b"{", b"}"]) + content[where:]
        )
    return content


_WRITERS: dict[str, Callable[[random.Random, list[dict[str, Any]]], bytes]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}

"""Exports with one thing wrong, drawn from a seed: what is cut, flipped, swapped, missing, or says something else."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 0.5, 10**9, 2**31, 2**62, 10**30, 1e308, -1e308, float("nan"), float("inf")),
    *(
        "",
        "a",
        "a" * 5000,
        "tiny",
        "../../elsewhere",
        "/dev/zero",
        "owner/name",
        "kernels-community/flash-attn",
        "\ud800",
        "\0",
    ),
    *([], {}, [0], [[]], {"a": 1}, [10**9], ["x"] * 40, {"": None}),
)
"""What takes the place of a value in a JSON file."""

Damage = Callable[[Path, random.Random], str]


def damage(export: Path, folder: Path, seed: int) -> tuple[Path, str]:
    """Copy an export by hard links, and damage one file of the copy; return its path and what was done."""
    draw = random.Random(seed)
    copy = Path(shutil.copytree(export, folder / f"export{seed}", copy_function=os.link))
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.suffix != ".md")
    path = draw.choice([*files, *(file for file in files if file.name in {"descore.json", "config.json"})])
    kinds: tuple[Damage, ...] = (_cut, _swap, _flip, _replace_bytes, _remove)
    own: dict[str, tuple[Damage, ...]] = {".safetensors": (_header_size, _header_text, _pickle), ".json": (_value,) * 9}
    done = draw.choice([*kinds, *own.get(path.suffix, ())])(path, draw)
    return copy, f"seed {seed}, {export.name}: {path.relative_to(copy)}: {done}"


def _write(path: Path, content: bytes) -> None:
    path.unlink()  # the bytes of the export itself stay
    path.write_bytes(content)


def _cut(path: Path, draw: random.Random) -> str:
    content = path.read_bytes()
    size = draw.choice([0, 1, 7, 8, 9, len(content) // 2, len(content) - 1, draw.randrange(len(content))])
    _write(path, content[:size])
    return f"cut to {size} of {len(content)} bytes"


def _flip(path: Path, draw: random.Random) -> str:
    content = bytearray(path.read_bytes())
    place, bit = draw.randrange(draw.choice([len(content), min(len(content), 400)])), draw.randrange(8)
    content[place] ^= 1 << bit
    _write(path, bytes(content))
    return f"bit {bit} of byte {place} flipped"


def _swap(path: Path, draw: random.Random) -> str:
    root = next(parent for parent in path.parents if (parent / "backbone").is_dir())
    other = draw.choice(sorted(file for file in root.rglob("*") if file.is_file() and file != path))
    _write(path, other.read_bytes())
    return f"the bytes of {other.name}"


def _replace_bytes(path: Path, draw: random.Random) -> str:
    contents = {
        "[": b"[" * 100_000,
        "noise": draw.randbytes(500),
        "list": b"[]",
        "text": b'"text"',
        "digits": b'{"format": ' + b"9" * 5000 + b"}",
        "LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    }
    kind = draw.choice(sorted(contents))
    _write(path, contents[kind])
    return f"{kind} instead"


def _remove(path: Path, draw: random.Random) -> str:
    path.unlink()
    kind = draw.choice(["nothing", "a folder", "a device", "a link to nowhere", "a pipe"])
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind != "nothing":
        path.symlink_to("/dev/zero" if kind == "a device" else "nowhere")
    return f"{kind} instead"


def _header_size(path: Path, draw: random.Random) -> str:
    size = draw.choice([0, 1, 2**20, 2**31, 2**60, 2**64 - 1])
    _write(path, struct.pack("<Q", size) + path.read_bytes()[8:])
    return f"a header of {size} bytes"


def _header_text(path: Path, draw: random.Random) -> str:
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    name = draw.choice(sorted(header))
    tensor = header[name]
    kind = draw.choice(["dtype", "shape", "data_offsets", "name", "value"])
    if kind == "name":
        header[draw.choice(["", "x", "../x", f"{name}.x"])] = header.pop(name)
    elif kind == "value" or kind not in tensor:
        header[name] = draw.choice(VALUES)
    elif kind == "dtype":
        tensor["dtype"] = draw.choice(["I32", "U32", "F16", "F64", "BOOL", "F4", "", 3])
    else:
        tensor[kind] = draw.choice([[], [-1], [10**9, 10**9], [2**62, 4], [0, 2**63], [0], [0, 0], tensor[kind][::-1]])
    text = json.dumps(header).encode()
    _write(path, struct.pack("<Q", len(text)) + text + content[8 + size :])
    return f"{kind} of {name} in the header: {header.get(name)}"


def _pickle(path: Path, draw: random.Random) -> str:
    tensors = load_file(path)
    path.unlink()
    torch.save(tensors, path)
    return "a pickle"


def _value(path: Path, draw: random.Random) -> str:
    content = json.loads(path.read_text())
    places = list(_places(content))
    where = draw.choice(places)
    parent = content
    for key in where[:-1]:
        parent = parent[key]
    value = draw.choice([*VALUES, "absent"])
    if value == "absent":
        del parent[where[-1]]
    else:
        parent[where[-1]] = value
    _write(path, json.dumps(content).encode())
    return f"{'.'.join(map(str, where))[:80]} is {str(value)[:40]!r}"


def _places(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value; of a long list or vocabulary only the first few."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items)[:40]:
        yield (*before, key)
        yield from _places(value, (*before, key))

"""Pickles that run code when they are read, write a file called canary, read files or take memory."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np


class Runs:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def gadgets(canary: Path) -> dict[str, bytes]:
    """Pickles that would run code, read files or take memory."""
    touch = f"touch {canary}"
    calls = {
        "os.system": Runs(os.system, touch),
        "eval": Runs(eval, f"open({str(canary)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(canary)!r}, 'w')"),
        "open": Runs(open, str(canary), "w"),
        "getattr": Runs(getattr, "a", "upper"),
        "import": Runs(__import__, "os"),
        "bytearray": Runs(bytearray, 2**40),
        "remove": Runs(os.remove, "/nothing"),
        "array": np.zeros(3),
        "scalar": np.float64(1),
        "a class": OrderedDict(a=1),
        "a function": os.system,
        "a number class": Fraction(1, 3),
        "set": {1, 2},
    }
    found = {name: pickle.dumps(value) for name, value in calls.items()}
    found |= {f"{name} in protocol 0": pickle.dumps(calls[name], 0) for name in ("os.system", "eval")}
    found["in a value"] = pickle.dumps({"images": [], "prompts": [Runs(os.system, touch)]})
    found["behind the end"] = pickle.dumps({"images": [], "prompts": []})[:-1] + pickle.dumps(calls["os.system"])
    found["INST"] = f"(S'{touch}'\nios\nsystem\n.".encode()
    found["a memo of 2^31 entries"] = b"\x80\x04]r\xff\xff\xff\x7f."
    found["bytes of 2^62"] = b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"."
    found["a persistent id"] = b"\x80\x04X\x01\x00\x00\x00aQ."
    found["an extension"] = b"\x80\x04\x82\x01."
    found["no end"] = b"\x80\x04]" + b"(" * 1000
    return found

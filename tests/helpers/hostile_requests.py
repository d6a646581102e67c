"""Requests that no honest client sends, each with the answers that are right; a video is `VIDEO` in their bodies."""

from __future__ import annotations

import base64
import io
import json
import os
import pickle
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
from PIL import Image

from descore.video.writer import write_video
from tests.helpers.serving import Running

FAILED, MALFORMED, TOO_LARGE, CLOSED = "failed item", 422, 413, "closed"


class Hostile(NamedTuple):
    """A request: its name, JSON or bytes of a body or of a connection, and the answers that are right."""

    name: str
    content: Any
    right: tuple[object, ...]
    kind: str = "json"
    content_type: str = "application/json"


def every(root: Path, secret: Path, port: int) -> list[Hostile]:
    """All of them, for a server that allows `root` and `HOSTS` and listens on a port; `secret` is beside `root`."""
    sources = traversals(root, secret), addresses(), bodies(), videos(secret.parent), forms(), connections(port)
    return [hostile for source in sources for hostile in source]


def traversals(root: Path, secret: Path) -> Iterator[Hostile]:
    """Paths that lead out of an allowed folder, or to what is no file; `root` gets the links that they need."""
    (root / "out").symlink_to(secret)
    (root / "away").symlink_to(secret.parent)
    (root / "loop").symlink_to(root / "loop")
    (root / "dangling").symlink_to(secret.parent / "nothing")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    inside = ["", ".", "/", "folder", "pipe", "loop", "dangling", "out", f"away/{secret.name}", "nothing.mp4"]
    outside = [f"../{secret.name}", f"folder/../../{secret.name}", str(secret), f"{root}/../{secret.name}"]
    elsewhere = ["/etc/passwd", "/dev/zero", "/proc/self/environ", "/proc/self/fd/0", "~/x.mp4", "//host/share/x.mp4"]
    odd = ["%2e%2e/x.mp4", "..%2fx.mp4", "..\\x.mp4", "C:\\x.mp4", "a\0.mp4", "file:///etc/passwd", "é" * 3000, "-"]
    for path in [*inside, *outside, *elsewhere, *odd]:
        yield Hostile(f"path {path[:40]!r}", {"prompt": "p", "video": {"path": path}}, (FAILED,), "path")


def addresses() -> Iterator[Hostile]:
    """URLs of hosts that are listed (see `HOSTS`) but not public, and of hosts that are not listed."""
    private = [f"http://{host}/x.mp4" for host in HOSTS]
    unlisted = [
        "http://example.org/x.mp4",
        "http://localhost:22/",
        "http://localhost@example.org/",
        "file:///etc/passwd",
    ]
    odd = [
        "ftp://localhost/x",
        "gopher://localhost",
        "http://",
        "localhost/x.mp4",
        "http://localhost/\r\nX: y",
        "http://[::1",
    ]
    for url in [*private, *unlisted, *odd]:
        yield Hostile(f"url {url!r}", {"prompt": "p", "video": {"url": url}}, (FAILED,), "url")


HOSTS = (
    "127.0.0.1",
    "localhost",
    "[::1]",
    "0.0.0.0",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "169.254.169.254",
    "10.0.0.1",
    "192.168.0.1",
    "[::ffff:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "nothing.invalid",
)


def bodies() -> Iterator[Hostile]:
    """Bodies of JSON that are malformed, or ask for what there is not."""
    good = {"prompt": "p", "video": "VIDEO"}
    wrong: dict[str, Any] = {
        "no prompt": {"video": "VIDEO"},
        "no video": {"prompt": "p"},
        "prompt null": good | {"prompt": None},
        "prompt number": good | {"prompt": 1},
        "prompt list": good | {"prompt": ["p"]},
        "prompt of a million characters": good | {"prompt": "p" * 1_000_000},
        "video text": {"prompt": "p", "video": "a.mp4"},
        "video list": {"prompt": "p", "video": []},
        "video empty": {"prompt": "p", "video": {}},
        "video of two kinds": {"prompt": "p", "video": {"path": "a", "base64": "YQ=="}},
        "video number": {"prompt": "p", "video": {"base64": 1}},
        "thoughts text": good | {"num_thoughts": "3"},
        "thoughts none": good | {"num_thoughts": 0},
        "thoughts negative": good | {"num_thoughts": -1},
        "thoughts fraction": good | {"num_thoughts": 1.5},
        "thoughts true": good | {"num_thoughts": True},
        "thoughts many": good | {"num_thoughts": 1000},
        "thoughts huge": good | {"num_thoughts": 10**300},
        "temperature negative": good | {"temperature": -1},
        "model unknown": good | {"model": "../../etc"},
        "model number": good | {"model": 5},
        "further key": good | {"__class__": "os.system"},
        "frames number": {"prompt": "p", "video": {"frames": 3, "fps": 8}},
        "frames too many": {"prompt": "p", "video": {"frames": ["YQ=="] * 5000, "fps": 8}},
        "rate zero": {"prompt": "p", "video": {"frames": ["YQ=="], "fps": 0}},
    }
    yield from (Hostile(name, body, (MALFORMED,)) for name, body in wrong.items())
    text = {
        "empty": b"",
        "no JSON": b"hello",
        "half": b'{"prompt": "p", "video"',
        "array": b"[]",
        "null": b"null",
        "deep": b"[" * 200_000,
        "deep object": b'{"video":' * 100_000,
        "not UTF-8": b'{"prompt": "\xff\xfe", "video": {"path": "a"}}',
        "lone surrogate": rb'{"prompt": "\ud83d", "video": {"path": "a"}}',
        "NaN": b'{"prompt": "p", "video": {"frames": ["YQ=="], "fps": NaN}}',
        "Infinity": b'{"prompt": "p", "temperature": Infinity, "video": {"path": "a"}}',
        "number of many digits": b'{"prompt": "p", "num_thoughts": ' + b"9" * 100_000 + b', "video": {"path": "a"}}',
        "exponent": b'{"prompt": "p", "temperature": 1e999999, "video": {"path": "a"}}',
        "pickle": pickle.dumps({"prompt": "p"}),
        "pickle that runs": b"cos\nsystem\n(S'touch CANARY'\ntR.",
        "YAML": b"!!python/object/apply:os.system ['touch CANARY']",
        "compressed": zlib.compress(b"x" * 1_000_000),
    }
    yield from (Hostile(name, body, (MALFORMED,), "bytes") for name, body in text.items())
    yield Hostile("too large", b" " * (3 * 2**20), (TOO_LARGE,), "bytes")


def videos(folder: Path) -> Iterator[Hostile]:
    """Videos that are none, lie about themselves, or are longer than the limits."""
    write_video(folder / "long.mp4", np.zeros((150, 16, 16, 3), np.uint8), fps=8)
    write_video(folder / "slow.mp4", np.zeros((12, 16, 16, 3), np.uint8), fps=1)
    write_video(folder / "good.mp4", np.zeros((8, 16, 16, 3), np.uint8), fps=8)
    good = (folder / "good.mp4").read_bytes()
    content = {
        "none": b"",
        "zeros": bytes(10_000),
        "noise": np.random.default_rng(0).bytes(10_000),
        "cut": good[: len(good) // 2],
        "first bytes": good[:40],
        "text": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "concat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "page": b"<html></html>",
        "box of 2^63 bytes": struct.pack(">I4sQ", 1, b"ftyp", 2**63 - 1) + bytes(100),
        "boxes of no bytes": struct.pack(">I4s", 0, b"moov") * 1000,
        "shuffled": good[:600] + good[600:][::-1],
        "too many frames": (folder / "long.mp4").read_bytes(),
        "too long": (folder / "slow.mp4").read_bytes(),
    }
    for name, one in content.items():
        yield Hostile(f"video: {name}", {"prompt": "p", "video": {"base64": _text(one)}}, (FAILED,))
    pictures = {
        "a bomb": [bomb()] * 4,
        "PostScript": [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"] * 4,
        "SVG": [b"<svg xmlns='http://www.w3.org/2000/svg'/>"] * 4,
        "beginnings": [b"\x89PNG\r\n\x1a\n"] * 4,
        "of two sizes": [picture(8), picture(16)] * 2,
        "a single one": [picture(8)],
        "no bytes": [b""] * 4,
    }
    for name, frames in pictures.items():
        video = {"frames": [_text(frame) for frame in frames], "fps": 8}
        yield Hostile(f"frames: {name}", {"prompt": "p", "video": video}, (FAILED,))
    yield Hostile("frames: none", {"prompt": "p", "video": {"frames": [], "fps": 8}}, (FAILED,))
    yield Hostile("frames: without a rate", {"prompt": "p", "video": {"frames": [_text(picture(8))]}}, (FAILED,))
    yield Hostile("base64: none", {"prompt": "p", "video": {"base64": "?" * 1000}}, (FAILED,))


def forms() -> Iterator[Hostile]:
    """Multipart bodies."""
    kind = "multipart/form-data; boundary=x"
    part = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    content = {
        "no parts": b"--x--\r\n",
        "no end": part % (b"prompt", b"p"),
        "video as text": part % (b"prompt", b"p") + part % (b"video", b"v") + b"--x--\r\n",
        "many fields": b"".join(part % (b"f%d" % index, b"v") for index in range(1000)) + b"--x--\r\n",
        "junk": b"\0\1\2" * 1000,
    }
    for name, body in content.items():
        yield Hostile(f"form: {name}", body, (MALFORMED,), "bytes", kind)
    yield Hostile("form: no boundary", b"--x--", (MALFORMED,), "bytes", "multipart/form-data")


def connections(port: int) -> Iterator[Hostile]:
    """What is written to a connection, byte for byte."""
    host = b"Host: 127.0.0.1:%d\r\n" % port
    post, end = b"POST /score HTTP/1.1\r\n" + host, b"\r\n\r\n"
    rebound = (b"evil.example", b"127.0.0.1.evil.example", b"", b"169.254.169.254", b"[::1", b"localhost@evil.example")
    for name in rebound:
        yield Hostile(f"host {name!r}", b"GET /metrics HTTP/1.1\r\nHost: " + name + end, (421, 400), "raw")
    content = {
        "huge header": (b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000 + end, (400, 431, CLOSED)),
        "many headers": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000 + end, (400, 431, CLOSED)),
        "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + end, (400, CLOSED)),
        "old HTTP": (b"GET /\r\n\r\n", (400, CLOSED)),
        "no host": (b"GET /metrics HTTP/1.1" + end, (400, 421, CLOSED)),
        "length of text": (post + b"Content-Length: x" + end, (400, CLOSED)),
        "length below zero": (post + b"Content-Length: -1" + end, (400, CLOSED)),
        "two lengths": (post + b"Content-Length: 1\r\nContent-Length: 2" + end + b"ab", (400, CLOSED)),
        "length above the limit": (post + b"Content-Length: 99999999999" + end, (413,)),
        "chunk of no number": (post + b"Transfer-Encoding: chunked" + end + b"zz\r\n", (400, CLOSED)),
        "header that stays away": (b"POST /score HTT", (CLOSED,)),
        "body that stays away": (post + b"Content-Length: 100" + end + b'{"pro', (408, CLOSED)),
        "other path": (b"GET /../../etc/passwd HTTP/1.1\r\n" + host + end, (404, 400)),
        "encoded path": (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + host + end, (404, 400)),
        "other method": (b"TRACE /score HTTP/1.1\r\n" + host + end, (405, 501)),
        "a socket": (
            b"GET / HTTP/1.1\r\n" + host + b"Upgrade: websocket\r\nConnection: upgrade" + end,
            (200, 400, 426),
        ),
    }
    yield from (Hostile(name, sent, right, "raw") for name, (sent, right) in content.items())


def ask(server: Running, hostile: Hostile) -> object:
    """Send a hostile request, and return its status; `FAILED` for a record without a reward, `CLOSED` for no answer."""
    if hostile.kind == "raw":
        return _write(server.port, hostile.content)
    content = hostile.content if hostile.kind == "bytes" else json.dumps(hostile.content)
    answer = server.post("/score", content=content, headers={"content-type": hostile.content_type})
    return _outcome(answer)


def _outcome(answer: httpx2.Response) -> object:
    body = answer.json()  # JSON, whatever happens
    if answer.status_code == 200 and body["reward"] is None and body["error"]:
        return FAILED
    assert answer.status_code == 200 or body["error"]
    return answer.status_code


def _write(port: int, content: bytes) -> object:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(content)
            line = connection.recv(4096)
        except ConnectionError:
            return CLOSED
    return int(line.split()[1]) if line.startswith(b"HTTP/1.") else CLOSED


def picture(size: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size)).save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """Return a PNG of a few bytes that says it has 50,000 x 50,000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()

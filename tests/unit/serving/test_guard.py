"""What stands before every request, asked without a server process."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import pytest

from descore.serving import fetching
from descore.serving.app import make_app
from descore.serving.fetching import FetchError, PublicBackend, fetch
from descore.serving.options import ServerError, ServerOptions

KEY = "a-key-of-the-test"


def ask(method: str, path: str, *, options: ServerOptions | None = None, **given: Any) -> httpx2.Response:
    app, _ = make_app(options or ServerOptions({"m": "folder"}, api_key=KEY), print)

    async def run() -> httpx2.Response:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **given)

    return asyncio.run(run())


WITHOUT_KEY = ("/", "/page.css", "/page.js", "/health", "/ready")


def routes() -> list[tuple[str, str]]:
    app, _ = make_app(ServerOptions({"m": "folder"}, api_key=KEY, pickle_bridge=True), print)
    described = app._app.openapi()["paths"]
    found = [(method.upper(), re.sub("{.*}", "x", path)) for path, ways in described.items() for method in ways]
    return [*found, ("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/nothing"), ("HEAD", "/metrics")]


def test_every_route_but_the_page_and_its_state_wants_the_key():
    asked = [(method, path) for method, path in routes() if path not in WITHOUT_KEY]
    assert len(asked) >= 6
    wrong = [{}, {"Authorization": "Bearer "}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": KEY}]
    wrong += [{"Authorization": "Bearer é".encode("latin-1")}, {"X-API-Key": KEY}]
    for method, path in asked:
        for headers in wrong:
            answer = ask(method, path, headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert KEY not in answer.text
        assert ask(method, path, headers={"Authorization": f"Bearer {KEY}"}).status_code != 401
    for path in WITHOUT_KEY:
        assert ask("GET", path).status_code in {200, 503}


def test_a_page_of_another_site_that_takes_the_name_of_this_machine_is_refused():
    keyless = ServerOptions({"m": "folder"})
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.1"):
        assert ask("GET", "/metrics", options=keyless, headers={"Host": host}).status_code == 421
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert ask("GET", "/metrics", options=keyless, headers={"Host": host}).status_code == 200


def test_the_key_is_not_shown_with_the_options():
    assert KEY not in repr(ServerOptions({"m": "folder"}, api_key=KEY))


def test_a_server_that_others_reach_needs_a_key():
    with pytest.raises(ServerError, match="--api-key-env"):
        ServerOptions({"m": "folder"}, host="0.0.0.0")
    ServerOptions({"m": "folder"}, host="0.0.0.0", is_open=True)
    with pytest.raises(ServerError, match="for this machine only"):
        ServerOptions({"m": "folder"}, host="0.0.0.0", api_key=KEY, pickle_bridge=True)


def test_a_name_is_resolved_once_and_its_address_is_connected_to(monkeypatch: pytest.MonkeyPatch):
    """A name that stands for a public address first and for this machine later (rebinding) is asked only once."""
    asked, connected = [], []

    async def run() -> None:
        loop = asyncio.get_running_loop()

        async def resolve(host: str, port: int, **_: Any) -> list[Any]:
            asked.append(host)
            return [(2, 1, 6, "", ("8.8.8.8" if len(asked) == 1 else "127.0.0.1", port))]

        async def connect(_: object, host: str, port: int, *rest: Any, **more: Any) -> None:
            connected.append((host, port))
            raise httpcore2.ConnectError

        monkeypatch.setattr(loop, "getaddrinfo", resolve)
        monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect)
        with pytest.raises(FetchError, match="ConnectError"):
            async for _ in fetch("http://videos.example.org/a.mp4", PublicBackend()):
                pass

    asyncio.run(run())
    assert (asked, connected) == (["videos.example.org"], [("8.8.8.8", 80)])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nvideo", None),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", "redirects"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        (b"nonsense\r\n\r\n", "RemoteProtocolError"),
    ],
)
def test_a_listed_host_is_fetched_from_and_its_redirects_are_not_followed(
    answer: bytes, reason: str | None, monkeypatch: pytest.MonkeyPatch
):
    async def run() -> bytes:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(reply, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            return b"".join([piece async for piece in fetch(f"http://localhost:{port}/a.mp4", PublicBackend())])

    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    if reason is None:
        assert asyncio.run(run()) == b"video"
    else:
        with pytest.raises(FetchError, match=reason):
            asyncio.run(run())


def test_the_page_asks_nobody_but_its_server():
    headers = ask("GET", "/").headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    page = Path(fetching.__file__).with_name("page")
    assert not re.findall(r"(?:https?:)?//\w", "".join(file.read_text() for file in page.iterdir()))

"""Fetches a video from a listed host, and from no address inside a network: what a name stands for is checked too."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import urlsplit

import httpcore2

_CHUNK_SECONDS = 10.0
_INSIDE = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))  # IPv4 behind NAT64


class FetchError(ValueError):
    """Raised for an address that is refused or does not answer; the message says why."""


def is_public(address: str) -> bool:
    """Return whether an IP address lies on the public internet, and so do the IPv4 addresses that it may stand for.

    >>> [is_public(one) for one in ("8.8.8.8", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "::ffff:10.0.0.1")]
    [True, False, False, False, False, False]
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and (
        ip.ipv4_mapped or ip.sixtofour or ip.teredo or any(ip in network for network in _INSIDE)
    ):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class PublicBackend(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only: a name is resolved once, and the address that was checked is connected to."""

    def __init__(self) -> None:
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> Any:
        """Resolve a name and connect to its first address.

        Raises:
            FetchError: If the name is unknown, or one of its addresses is not public.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise FetchError(f"{host}: its name cannot be resolved") from error
        addresses = [str(one[4][0]) for one in found]
        if not addresses or not all(map(is_public, addresses)):
            raise FetchError(f"{host}: expected a public address, its name stands for one that is not")
        return await self._backend.connect_tcp(addresses[0], port, *args, **options)

    async def connect_unix_socket(self, *args: Any, **options: Any) -> Any:
        """Refuse."""
        raise FetchError("expected an address of the internet")


def check_url(url: str, hosts: Iterable[str]) -> None:
    """Check that a URL is of http or https and of a listed host.

    Args:
        url: The URL.
        hosts: Hosts, which stand for the usual port, and host:port.

    Raises:
        FetchError: If it is not.

    >>> check_url("https://videos.example.org/a.mp4", ["videos.example.org"])
    >>> check_url("https://videos.example.org:8080/a.mp4", ["videos.example.org"])
    Traceback (most recent call last):
    descore.serving.fetching.FetchError: url: expected http or https on a host that the server allows (--allow-host)
    """
    refused = FetchError("url: expected http or https on a host that the server allows (--allow-host)")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise refused from None
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    name = (parts.hostname or "").lower()
    listed = {host.lower() for host in hosts}
    allowed = name in listed if port in {None, usual} else f"{name}:{port}" in listed
    if usual is None or not name or not allowed or "@" in parts.netloc or not url.isascii() or not url.isprintable():
        raise refused


async def fetch(url: str, backend: httpcore2.AsyncNetworkBackend) -> AsyncIterator[bytes]:
    """Yield the body of a URL in pieces; a redirect is not followed.

    Raises:
        FetchError: If it does not answer with 200.
    """
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), _CHUNK_SECONDS)
    headers: dict[bytes | str, bytes | str] = {"Accept": "video/*,*/*", "Accept-Encoding": "identity"}
    try:
        async with (
            httpcore2.AsyncConnectionPool(network_backend=backend) as pool,
            pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as response,
        ):
            if response.status != 200:
                raise FetchError(f"url: expected status 200, got {response.status}; redirects are not followed")
            async for piece in response.aiter_stream():
                yield piece
    except (httpcore2.NetworkError, httpcore2.TimeoutException, httpcore2.ProtocolError) as error:
        raise FetchError(f"url: {type(error).__name__} while it was fetched") from error

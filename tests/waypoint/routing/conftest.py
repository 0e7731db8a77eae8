"""Values that tests of routing share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.identity import SpiffeId
from waypoint.client import Client
from waypoint.http.message import RequestHead


def make_client(namespace: str = "default", **fields: Any) -> Client:
    fields.setdefault("identity", SpiffeId("cluster.local", namespace, "client"))
    return Client(
        address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 40000)),
        destination=SocketAddress(parse_ip("10.96.0.10"), 80),
        **fields,
    )


def make_head(path: str | bytes = "/", method: str = "GET", authority: str = "echo", **headers: str) -> RequestHead:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    target = path if isinstance(path, bytes) else path.encode()
    return RequestHead(method=method.encode(), path=target, authority=authority.encode(), headers=fields)


@pytest.fixture
def head() -> Callable[..., RequestHead]:
    return make_head


@pytest.fixture
def client() -> Callable[..., Client]:
    return make_client

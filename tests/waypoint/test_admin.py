"""When a replica is ready, and what its admin port does."""

from __future__ import annotations

from typing import Any

import trio

from mesh.admin import admin_routes, readiness_routes
from mesh.certificates.manager import IdentityManager
from mesh.clock import SystemClock
from mesh.identity import SpiffeId
from mesh.model.waypoint import Destination
from mesh.state.store import MeshState
from mesh.telemetry.http_endpoint import HttpRequest
from mesh.testing.ca import TestAuthority
from mesh.tls.credentials import Credentials
from mesh.tls.kernel_driver import NoKernelTls
from mesh.xds.codec import ADDRESS_TYPE, DESTINATION_TYPE, LABELS_TYPE
from mesh.xds.discovery_codec import Resource
from mesh.xds.waypoint_codec import encode_destination
from waypoint.admin import HELP, Readiness, dump, set_levels
from waypoint.destinations import Destinations

IDENTITY = SpiffeId("cluster.local", "demo", "waypoint")
WEB = Destination(key="demo/web", waypoint="demo/waypoint")


class Issues:
    """Signs at once."""

    def __init__(self) -> None:
        self._authority = TestAuthority()

    async def fetch(self, identity: SpiffeId) -> Credentials:
        return self._authority.issue(identity)


class Serves:
    def describe(self) -> object:
        return {"connections": 3}


def request(method: str, path: str, query: dict[str, str]) -> HttpRequest:
    return HttpRequest(method=method, path=path, query=query, headers={}, body=b"")


def parts() -> tuple[MeshState, Destinations[Any], IdentityManager]:
    destinations: Destinations[Any] = Destinations("demo/waypoint")
    destinations.serve_by(lambda value, former: value)
    return MeshState("node1"), destinations, IdentityManager(Issues(), SystemClock(), lambda: 0.5)


async def test_ready_once_all_is_there_and_not_while_draining() -> None:
    state, destinations, identities = parts()
    readiness = Readiness(state, destinations, identities, IDENTITY)

    async def asked() -> list[str]:
        return readiness.missing()

    answer = readiness_routes(asked)["GET", "/healthz/ready"]
    probe = request("GET", "/healthz/ready", {})
    missing = readiness.missing()
    assert [word in " ".join(missing) for word in ("workloads", "destinations", "certificate")] == [True] * 3
    assert (await answer(probe)).status == 503
    state.apply(ADDRESS_TYPE, [], [])
    state.applied(ADDRESS_TYPE)
    destinations.apply(DESTINATION_TYPE, [Resource(WEB.name, "1", (), encode_destination(WEB))], [])
    for kind in (DESTINATION_TYPE, LABELS_TYPE):
        destinations.applied(kind)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(identities.run)
        await identities.get(IDENTITY)
        nursery.cancel_scope.cancel()
    assert readiness.missing() == []
    assert (await answer(probe)).status == 200
    readiness.draining = True
    assert readiness.missing() == ["draining"]


async def test_the_dump_and_the_end_are_asked_for_over_http() -> None:
    state, destinations, identities = parts()
    destinations.apply(DESTINATION_TYPE, [Resource(WEB.name, "1", (), encode_destination(WEB))], [])
    quits: list[int] = []

    async def everything() -> object:
        return dump(state, identities, destinations, Serves(), NoKernelTls("not wished for"))

    routes = admin_routes(HELP, everything, set_levels, lambda: quits.append(1))
    page = await routes["GET", "/config_dump"](request("GET", "/config_dump", {}))
    assert b'"demo/web"' in page.body
    assert b'"connections"' in page.body
    assert b'"kernel_tls": "off: not wished for"' in page.body
    assert (await routes["POST", "/logging"](request("POST", "/logging", {"level": "loud"}))).status == 400
    levels = await routes["GET", "/logging"](request("GET", "/logging", {}))
    assert levels.body == b"level: info\n"
    assert quits == []
    await routes["POST", "/quitquitquit"](request("POST", "/quitquitquit", {}))
    assert quits == [1]

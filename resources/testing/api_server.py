"""An API server's double: lists in pages, watches with bookmarks, apply, TokenReview, and faults on request.

It speaks HTTP over a real socket and follows the API's protocol as far as this project's clients use it: paths,
selectors, ``limit`` and ``continue``, resource versions that are compacted, 410 in both its forms, ``Status`` bodies,
401, 403, 404 and 409. It validates nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import msgspec
import trio

from resources.testing.cluster import Body, Cluster, Key, Refusal, selected


@dataclass
class Faults:
    """What goes wrong."""

    denied: set[str] = field(default_factory=set)
    """Collections (``group/plural``), or ``verb group/plural``, that are answered 403."""
    tokens: set[str] | None = None
    """Bearer tokens that are taken; None: no token is asked for."""
    away: bool = False
    """Connections are closed without an answer."""
    errors: list[int] = field(default_factory=list)
    """Statuses that the next requests are answered with."""
    gone_as_event: bool = True
    """Whether a watch from a forgotten version is told 410 in an event, else as the answer's status."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class ApiServer:
    """The double, at work."""

    def __init__(self, cluster: Cluster | None = None) -> None:
        self.cluster = cluster or Cluster()
        self.faults = Faults()
        self.requests: list[Asked] = []
        self.reviews: dict[str, Body] = {}
        """The ``status`` of the TokenReview of each token."""
        self.port = 0
        self.bookmark_seconds = 0.1
        self._streams: set[trio.SocketStream] = set()

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[ApiServer]:
        """Serve on a port of 127.0.0.1."""
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            self.port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, self._connection, listeners)
            yield self
            nursery.cancel_scope.cancel()

    def kubeconfig(self, path: Path, token: str = "") -> Path:
        """Write a kubeconfig for this server."""
        user: Body = {"token": token} if token else {}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "test", "user": user}],
        }
        path.write_bytes(msgspec.json.encode(content))
        return path

    async def break_connections(self) -> None:
        """Close every connection, as a server that ends does."""
        for stream in list(self._streams):
            await trio.aclose_forcefully(stream)

    async def _connection(self, stream: trio.SocketStream) -> None:
        self._streams.add(stream)
        machine = h11.Connection(h11.SERVER)
        try:
            while True:
                asked = await _read_request(machine, stream)
                if asked is None or self.faults.away:
                    return
                self.requests.append(asked)
                await self._answer(machine, stream, asked)
                if machine.our_state is not h11.DONE:
                    return
                machine.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return
        finally:
            self._streams.discard(stream)
            await trio.aclose_forcefully(stream)

    async def _answer(self, machine: h11.Connection, stream: trio.SocketStream, asked: Asked) -> None:
        try:
            self._admit(asked)
            route = _route(asked.path)
            if asked.query.get("watch") == "true" and route is not None:
                await self._watch(machine, stream, asked, route)
                return
            status, body = 200, self._result(asked, route)
        except Refusal as error:
            status = error.status
            body = {"kind": "Status", "code": status, "reason": error.reason, "message": error.message}
        data = msgspec.json.encode(body)
        headers = [("content-type", "application/json"), ("content-length", str(len(data)))]
        await stream.send_all(
            (machine.send(h11.Response(status_code=status, headers=headers)) or b"")
            + (machine.send(h11.Data(data=data)) or b"")
            + (machine.send(h11.EndOfMessage()) or b"")
        )

    def _admit(self, asked: Asked) -> None:
        if self.faults.errors:
            raise Refusal(self.faults.errors.pop(0), "Injected")
        token = asked.headers.get("authorization", "").partition(" ")[2]
        if self.faults.tokens is not None and token not in self.faults.tokens:
            raise Refusal(401, "Unauthorized")

    def _result(self, asked: Asked, route: _Route | None) -> Any:
        if asked.path == "/apis/authentication.k8s.io/v1/tokenreviews":
            review = msgspec.json.decode(asked.body)
            unknown = {"authenticated": False, "error": "invalid bearer token"}
            return {**review, "status": self.reviews.get(review["spec"]["token"], unknown)}
        if route is None:
            return self._discovery(asked.path)
        self._check(route, _VERBS[asked.method] if route.name or asked.method != "GET" else "list")
        key = route.key
        match asked.method:
            case "GET" if route.name:
                return self.cluster.get(key)
            case "GET":
                return self._page(asked, route)
            case "DELETE":
                options = msgspec.json.decode(asked.body) if asked.body else {}
                return self.cluster.delete(key, options.get("preconditions", {}).get("uid", ""))
        body = msgspec.json.decode(asked.body)
        if route.namespace:
            body.setdefault("metadata", {}).setdefault("namespace", route.namespace)
        match asked.method, asked.headers.get("content-type"):
            case "POST", _:
                return self.cluster.create(route.collection, body)
            case "PUT", _:
                return self.cluster.replace(route.collection, body)
            case "PATCH", "application/apply-patch+yaml":
                return self.cluster.apply(key, body, asked.query["fieldManager"], route.subresource)
        return self.cluster.merge(key, body)

    def _check(self, route: _Route, verb: str) -> None:
        if route.version not in self.cluster.installed.get(route.collection, ()):
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        if self.faults.denied & {route.collection, f"{verb} {route.collection}"}:
            raise Refusal(403, "Forbidden", f"{route.collection} is forbidden: cannot {verb}")

    def _discovery(self, path: str) -> Body:
        parts = path.strip("/").split("/")[1:]
        found = {
            collection.partition("/")[2]: versions
            for collection, versions in self.cluster.installed.items()
            if parts and collection.startswith(f"{parts[0]}/")
        }
        if not found:
            raise Refusal(404, "NotFound")
        if len(parts) == 1:
            served = sorted({version for versions in found.values() for version in versions})
            return {"kind": "APIGroup", "versions": [{"version": version} for version in served]}
        return {"resources": [{"name": name} for name, versions in found.items() if parts[1] in versions]}

    def _page(self, asked: Asked, route: _Route) -> Body:
        labels, fields = asked.query.get("labelSelector", ""), asked.query.get("fieldSelector", "")
        found = self.cluster.of(route.collection, route.namespace)
        found = [(key, body) for key, body in found if selected(body, labels, fields)]
        metadata: Body = {"resourceVersion": str(self.cluster.version)}
        if token := asked.query.get("continue"):
            version, namespace, name = token.split("|")
            if int(version) < self.cluster.compacted:
                raise Refusal(410, "Expired", "the continue token is too old")
            found = [(key, body) for key, body in found if key[1:] > (namespace, name)]
            metadata["resourceVersion"] = version
        limit = int(asked.query.get("limit", "0"))
        if limit and len(found) > limit:
            found = found[:limit]
            last = found[-1][0]
            metadata["continue"] = f"{metadata['resourceVersion']}|{last[1]}|{last[2]}"
        return {"kind": "List", "metadata": metadata, "items": [body for _, body in found]}

    async def _watch(self, machine: h11.Connection, stream: trio.SocketStream, asked: Asked, route: _Route) -> None:
        self._check(route, "watch")
        version = int(asked.query.get("resourceVersion") or self.cluster.version)
        gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        if version < self.cluster.compacted and not self.faults.gone_as_event:
            raise Refusal(410, "Expired")
        headers = [("content-type", "application/json"), ("transfer-encoding", "chunked")]
        await stream.send_all(machine.send(h11.Response(status_code=200, headers=headers)) or b"")

        async def say(event: str, body: Any) -> None:
            line = msgspec.json.encode({"type": event, "object": body}) + b"\n"
            await stream.send_all(machine.send(h11.Data(data=line)) or b"")

        with trio.move_on_after(float(asked.query.get("timeoutSeconds", "3600"))):
            while version >= self.cluster.compacted and route.version in self.cluster.installed.get(
                route.collection, ()
            ):
                changed = self.cluster.changed
                for one in self.cluster.events_after(version):
                    version = one.version
                    if one.key[0] == route.collection and route.namespace in ("", one.key[1]):
                        told = _as_seen(one.type, one.body, one.before, asked.query)
                        if told is not None:
                            await say(told, one.body)
                with trio.move_on_after(self.bookmark_seconds) as quiet:
                    await changed.wait()
                # What has happened since the time was up is told first: a bookmark behind it would leave it out.
                if quiet.cancelled_caught and not changed.is_set() and version >= self.cluster.compacted:
                    version = self.cluster.version
                    await say("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})
            if version < self.cluster.compacted:
                await say("ERROR", gone)
        await stream.send_all(machine.send(h11.EndOfMessage()) or b"")


_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True)
class _Route:
    collection: str
    version: str
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Key:
        return self.collection, self.namespace, self.name


def _route(path: str) -> _Route | None:
    parts = path.strip("/").split("/")
    group = ""
    if parts[0] == "apis":
        group, parts = parts[1] if len(parts) > 1 else "", parts[1:]
    version, rest = parts[1] if len(parts) > 1 else "", parts[2:]
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces" and rest[2] != "status":
        namespace, rest = rest[1], rest[2:]
    if not rest:
        return None
    plural, name, subresource = [*rest, "", ""][:3]
    return _Route(f"{group}/{plural}", version, namespace, name, subresource)


def _as_seen(event: str, body: Body, before: Body | None, query: dict[str, str]) -> str | None:
    """What a change is for one who watches with selectors: an object that is no longer chosen is deleted for it."""
    selectors = query.get("labelSelector", ""), query.get("fieldSelector", "")
    if selectors == ("", ""):
        return event
    was = before is not None and selected(before, *selectors)
    now = event != "DELETED" and selected(body, *selectors)
    if now:
        return "MODIFIED" if was else "ADDED"
    return "DELETED" if was else None


async def _read_request(machine: h11.Connection, stream: trio.SocketStream) -> Asked | None:
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            machine.receive_data(bytes(await stream.receive_some(65536)))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            assert request is not None
            parts = urlsplit(request.target.decode("ascii"))
            headers = {name.decode(): value.decode() for name, value in request.headers}
            return Asked(
                request.method.decode(), unquote(parts.path), dict(parse_qsl(parts.query)), headers, bytes(body)
            )
        else:
            return None

"""Client and server over loopback gRPC."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
import trio.lowlevel

from mesh.backoff import Backoff
from mesh.errors import ConnectFailed
from mesh.grpc.driver import CallContext, GrpcError, GrpcLimits, StatusCode, open_channel, serve_grpc
from mesh.model.workload import Workload
from mesh.testing.ca import TestAuthority
from mesh.tls.context import control_plane_context, control_plane_server_context
from mesh.xds import server_driver
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, encode_address
from mesh.xds.discovery_codec import Request, decode_response, encode_request
from mesh.xds.driver import (
    METHOD,
    Connect,
    Entry,
    MessageStream,
    NodeInfo,
    Rejected,
    Resource,
    SnapshotStore,
    Subscription,
    XdsClient,
    XdsServer,
    aggregated_stream,
    entry,
    run_client,
)

NODE = NodeInfo(pod="ztunnel-abc", namespace="istio-system", ip="127.0.0.1", node="node1")
TOKEN = "Bearer secret"
FAST = Backoff(0.01, 0.05)


class Recorder:
    """A handler that keeps what it is given and rejects payloads that say so."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.calls: list[tuple[str, int, int]] = []
        self.absent: list[str] = []
        self._changed = trio.Event()

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
        self.calls.append((type_url, len(updated), len(removed)))
        rejected = [Rejected(each.name, "no use") for each in updated if each.payload == b"bad"]
        for name in removed:
            if self.held.pop(name, None) is None:
                self.absent.append(name)
        self.held.update({each.name: each.payload for each in updated if each.payload != b"bad"})
        self._changed.set()
        self._changed = trio.Event()
        return rejected

    def applied(self, type_url: str) -> None:
        pass

    async def until(self, expected: dict[str, bytes]) -> None:
        with trio.fail_after(10):
            while self.held != expected:
                await self._changed.wait()


async def authenticate(context: CallContext) -> str:
    if context.metadata.get("authorization") != TOKEN:
        raise GrpcError(StatusCode.UNAUTHENTICATED, "the bearer token is not known: is it of this cluster?")
    return "istio-system/ztunnel"


class Operator:
    """A server that can be stopped and started on one port."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.store = SnapshotStore()
        self.server = XdsServer(self.store, authenticate=authenticate)
        self.port = 0
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()

    async def start(self) -> None:
        [listener] = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        self._scope, self._stopped = trio.CancelScope(), trio.Event()

        async def serve() -> None:
            with self._scope:
                await serve_grpc([listener], {METHOD: self.server.handler()})
            self._stopped.set()

        self._nursery.start_soon(serve)

    async def stop(self) -> None:
        self._scope.cancel()
        await self._stopped.wait()

    def connect(self, token: str = TOKEN) -> Connect:
        async def metadata() -> list[tuple[str, str]]:
            return [("authorization", token), ("clusterid", "Kubernetes")]

        return aggregated_stream("127.0.0.1", self.port, ssl_context=lambda: None, metadata=metadata)


@asynccontextmanager
async def operator() -> AsyncIterator[tuple[Operator, trio.Nursery]]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            one = Operator(nursery)
            await one.start()
            yield one, nursery
            nursery.cancel_scope.cancel()


def make(name: str, content: bytes = b"1", aliases: tuple[str, ...] = ()) -> Entry:
    return entry(ADDRESS_TYPE, name, content, aliases)


async def test_everything_arrives_then_changes_do() -> None:
    async with operator() as (one, nursery):
        one.store.update(ADDRESS_TYPE, [make("a"), make("b")])
        recorder = Recorder()
        subscriptions = [Subscription(ADDRESS_TYPE), Subscription(AUTHORIZATION_TYPE)]
        client = await nursery.start(run_client, one.connect(), NODE, subscriptions, recorder)
        assert isinstance(client, XdsClient)
        await client.wait_synced()
        assert recorder.held == {"a": b"1", "b": b"1"}
        one.store.update(ADDRESS_TYPE, [make("a", b"2"), make("c")], ["b"])
        await recorder.until({"a": b"2", "c": b"1"})
        [connected] = one.server.connected()
        assert connected.caller == "istio-system/ztunnel"
        assert connected.node_id == NODE.id
        assert connected.held[ADDRESS_TYPE] == 2


async def test_state_is_kept_while_the_server_is_away_and_the_difference_comes_after() -> None:
    async with operator() as (one, nursery):
        one.store.update(ADDRESS_TYPE, [make("same"), make("changed"), make("gone")])
        recorder = Recorder()
        client = XdsClient(one.connect(), NODE, [Subscription(ADDRESS_TYPE)], recorder, FAST)
        nursery.start_soon(client.run)
        await recorder.until({"same": b"1", "changed": b"1", "gone": b"1"})
        await one.stop()
        one.store.update(ADDRESS_TYPE, [make("changed", b"2")], ["gone"])
        await trio.sleep(0.1)
        assert recorder.held == {"same": b"1", "changed": b"1", "gone": b"1"}
        assert not client.connected
        recorder.calls.clear()
        await one.start()
        await recorder.until({"same": b"1", "changed": b"2"})
        assert recorder.calls == [(ADDRESS_TYPE, 1, 1)]


async def test_on_demand_subscriptions_while_connected_and_after_a_reconnection() -> None:
    async with operator() as (one, nursery):
        one.store.update(ADDRESS_TYPE, [make("a", aliases=("/10.0.0.1",)), make("b")])
        recorder = Recorder()
        client = XdsClient(one.connect(), NODE, [Subscription(ADDRESS_TYPE, on_demand=True)], recorder, FAST)
        nursery.start_soon(client.run)
        await client.wait_synced()
        assert recorder.held == {}
        client.subscribe(ADDRESS_TYPE, ["/10.0.0.1", "/10.0.0.9"])
        await recorder.until({"a": b"1"})
        assert recorder.absent == ["/10.0.0.9"]
        await one.stop()
        client.subscribe(ADDRESS_TYPE, ["b"])
        await one.start()
        await recorder.until({"a": b"1", "b": b"1"})
        client.unsubscribe(ADDRESS_TYPE, ["/10.0.0.1"])
        await recorder.until({"b": b"1"})


async def test_a_refused_resource_does_not_stop_the_others() -> None:
    async with operator() as (one, nursery):
        recorder = Recorder()
        nursery.start_soon(run_client, one.connect(), NODE, [Subscription(ADDRESS_TYPE)], recorder)
        one.store.update(ADDRESS_TYPE, [make("good"), make("worse", b"bad")])
        await recorder.until({"good": b"1"})
        one.store.update(ADDRESS_TYPE, [make("good", b"2")])
        await recorder.until({"good": b"2"})
        [status] = one.server.connected()
        assert (status.refused, status.last_refusal) == (1, "worse: no use")


async def test_a_caller_without_a_good_token_is_told_so_and_sees_nothing() -> None:
    async with operator() as (one, _):
        one.store.update(ADDRESS_TYPE, [make("secret")])
        async with one.connect("Bearer wrong")() as stream:
            with pytest.raises(GrpcError) as caught:
                await stream.receive()
        assert caught.value.status is StatusCode.UNAUTHENTICATED


async def test_a_request_beyond_the_bounds_ends_its_stream() -> None:
    async with operator() as (one, _), one.connect()() as stream:
        await stream.send(encode_request(Request(type_url=ADDRESS_TYPE, subscribe=("x" * 5000,))))
        with pytest.raises(GrpcError) as caught:
            await stream.receive()
        assert caught.value.status is StatusCode.INVALID_ARGUMENT


async def test_a_client_that_never_acknowledges_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_driver, "_ACKNOWLEDGE_SECONDS", 0.2)
    async with operator() as (one, _), one.connect()() as stream:
        await stream.send(encode_request(Request(type_url=ADDRESS_TYPE)))
        assert await stream.receive() is not None
        one.store.update(ADDRESS_TYPE, [make("a")])  # held back: the first response is not acknowledged
        with pytest.raises(GrpcError) as caught:
            await stream.receive()
        assert caught.value.status is StatusCode.ABORTED


async def test_a_slow_client_is_sent_the_latest_only() -> None:
    async with operator() as (one, _), one.connect()() as stream:
        await stream.send(encode_request(Request(type_url=ADDRESS_TYPE)))
        first = await stream.receive()
        assert first is not None
        for number in range(50):
            one.store.update(ADDRESS_TYPE, [make("a", str(number).encode())])
            await trio.lowlevel.checkpoint()
        await stream.send(encode_request(Request(type_url=ADDRESS_TYPE, nonce=decode_response(first).nonce)))
        second = await stream.receive()
        assert second is not None
        assert [each.payload for each in decode_response(second).resources] == [b"49"]


async def test_a_large_mesh_in_one_response_and_back_in_one_request() -> None:
    async with operator() as (one, nursery):
        workloads = [Workload(uid=f"Kubernetes//Pod/ns/pod-{n}", name=f"p{n}", namespace="ns") for n in range(20_000)]
        one.store.update(ADDRESS_TYPE, [make(each.uid, encode_address(each)) for each in workloads])
        recorder = Recorder()
        client = XdsClient(one.connect(), NODE, [Subscription(ADDRESS_TYPE)], recorder, FAST)
        nursery.start_soon(client.run)
        await client.wait_synced()
        assert len(recorder.held) == 20_000
        assert max(size for _, size, _ in recorder.calls) <= 128  # other tasks ran in between
        await one.stop()
        recorder.calls.clear()
        one.store.update(ADDRESS_TYPE, removed=["Kubernetes//Pod/ns/pod-7"])
        await one.start()
        del workloads[7]
        await recorder.until({each.uid: encode_address(each) for each in workloads})
        assert recorder.calls == [(ADDRESS_TYPE, 0, 1)]


async def test_attempts_follow_one_another_at_growing_intervals(autojump_clock: trio.testing.MockClock) -> None:
    attempts: list[float] = []

    @asynccontextmanager
    async def refuse() -> AsyncIterator[MessageStream]:
        attempts.append(trio.current_time())
        raise ConnectFailed("nobody there")
        yield

    client = XdsClient(refuse, NODE, [Subscription(ADDRESS_TYPE)], Recorder())
    with trio.move_on_after(200):
        await client.run()
    waits = [later - earlier for earlier, later in pairwise(attempts)]
    assert 0.005 <= waits[0] <= 0.01
    assert all(7.5 <= wait <= 15 for wait in waits[12:])
    assert len(waits) < 50


async def test_over_tls_with_the_operators_name() -> None:
    authority = TestAuthority()
    credentials = authority.issue_server("ambimesh-operator.ambimesh-system.svc")
    server_context = control_plane_server_context(credentials.certificate_chain, credentials.key)
    store = SnapshotStore()
    store.update(ADDRESS_TYPE, [make("a")])
    handlers = {METHOD: XdsServer(store, authenticate=authenticate).handler()}
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    recorder = Recorder()

    async def metadata() -> list[tuple[str, str]]:
        return [("authorization", TOKEN)]

    connect = aggregated_stream(
        "127.0.0.1",
        port,
        ssl_context=lambda: control_plane_context(authority.roots),
        server_hostname="ambimesh-operator.ambimesh-system.svc",
        metadata=metadata,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_grpc([listener], handlers, ssl_context=server_context))
        nursery.start_soon(run_client, connect, NODE, [Subscription(ADDRESS_TYPE)], recorder)
        await recorder.until({"a": b"1"})
        nursery.cancel_scope.cancel()


async def test_message_limits_of_the_discovery_method_are_its_own() -> None:
    async with (
        operator() as (one, _),
        open_channel("127.0.0.1", one.port) as channel,
        channel.stream(METHOD, metadata=[("authorization", TOKEN)]) as call,
    ):
        versions = {f"name-{number:08}": "0" * 16 for number in range(200_000)}
        request = encode_request(Request(type_url=ADDRESS_TYPE, initial_versions=versions))
        assert len(request) > GrpcLimits().request_bytes
        await call.send(request)
        answer = await call.receive()
        assert answer is not None
        assert len(decode_response(answer).removed) == 200_000

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ambimesh.lab.kubelet.probes import Outcome, ProbeState, attempt, resolve_port
from ambimesh.lab.programs import HERE
from resources.pod import Container, ContainerPort, ExecAction, HttpGetAction, HttpHeader, Probe, TcpSocketAction

CONTAINER = Container(name="c", ports=(ContainerPort(container_port=8080, name="web"),))
GOOD, BAD = Outcome(True, ""), Outcome(False, "")


def test_ports_by_number_and_by_name() -> None:
    assert [resolve_port(port, CONTAINER) for port in (80, "81", "web", "none")] == [80, 81, 8080, None]


def test_thresholds_count_runs_of_outcomes() -> None:
    state = ProbeState(Probe(failure_threshold=2, success_threshold=2), initially=True)
    outcomes = [BAD, GOOD, BAD, BAD, GOOD, BAD, GOOD, GOOD]
    seen = [(state.record(outcome), state.passing) for outcome in outcomes]
    assert [passing for _, passing in seen] == [True, True, True, False, False, False, False, True]
    assert [changed for changed, _ in seen] == [False, False, False, True, False, False, False, True]


@given(st.lists(st.booleans()), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_verdict_changes_only_after_a_whole_run(
    outcomes: list[bool], failures: int, successes: int, initially: bool
) -> None:
    state = ProbeState(Probe(failure_threshold=failures, success_threshold=successes), initially)
    for index, good in enumerate(outcomes):
        before = state.passing
        if state.record(Outcome(good, "")):
            run = successes if good else failures
            assert outcomes[index + 1 - run : index + 1] == [good] * run
            assert state.passing is good is not before


async def listen() -> tuple[trio.SocketListener, int]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    return listener, int(listener.socket.getsockname()[1])


@pytest.mark.parametrize(
    ("status", "good"), [("200 OK", True), ("302 Found", True), ("404 Not Found", False), ("503 Busy", False)]
)
async def test_http(status: str, good: bool) -> None:
    listener, port = await listen()
    asked = b""

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal asked
        asked = await stream.receive_some(4096)
        await stream.send_all(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        await stream.aclose()

    probe = Probe(http_get=HttpGetAction(port=port, path="ready", http_headers=(HttpHeader(name="X-A", value="b"),)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        outcome = await attempt(probe, CONTAINER, "127.0.0.1", HERE)
        nursery.cancel_scope.cancel()
    assert outcome == Outcome(good, f"HTTP {status[:3]}")
    assert asked.startswith(b"GET /ready HTTP/1.1\r\n")
    assert b"X-A: b\r\n" in asked
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in asked


async def test_http_without_an_answer() -> None:
    listener, port = await listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, trio.aclose_forcefully, [listener])
        outcome = await attempt(Probe(http_get=HttpGetAction(port=port)), CONTAINER, "127.0.0.1", HERE)
        nursery.cancel_scope.cancel()
    assert not outcome.success


async def test_a_silent_server_is_given_up_after_the_timeout() -> None:
    listener, port = await listen()
    with trio.fail_after(5):
        outcome = await attempt(Probe(http_get=HttpGetAction(port=port)), CONTAINER, "127.0.0.1", HERE)
    assert outcome == Outcome(False, f"no answer from 127.0.0.1:{port} within 1 s")
    await listener.aclose()


async def test_tcp() -> None:
    listener, port = await listen()
    probe = Probe(tcp_socket=TcpSocketAction(port=port))
    assert (await attempt(probe, CONTAINER, "127.0.0.1", HERE)).success
    await listener.aclose()
    assert not (await attempt(probe, CONTAINER, "127.0.0.1", HERE)).success


async def test_exec() -> None:
    good = await attempt(Probe(exec=ExecAction(command=("true",))), CONTAINER, "", HERE)
    bad = await attempt(Probe(exec=ExecAction(command=("sh", "-c", "echo why; exit 3"))), CONTAINER, "", HERE)
    none = await attempt(Probe(exec=ExecAction(command=("no-such-program",))), CONTAINER, "", HERE)
    assert (good.success, bad, none.success) == (True, Outcome(False, "exit status 3: why"), False)


async def test_a_probe_that_names_nothing_or_an_unknown_port_fails() -> None:
    assert not (await attempt(Probe(), CONTAINER, "127.0.0.1", HERE)).success
    probe = Probe(tcp_socket=TcpSocketAction(port="none"))
    assert await attempt(probe, CONTAINER, "", HERE) == Outcome(False, "the container has no port named 'none'")


"""The programs that tests run in pods: the load counts every request, the server tells that it ends."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest
import trio

from tests.e2e.kit.application import ask, load, server
from tests.e2e.kit.ports import free_ports

STATUSES = [200, 200, 503, 200, 0, 200]
"""What the answers of `peer` are, in turn; 0 is none."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    statuses: Iterator[int]

    def do_GET(self) -> None:
        status = next(type(self).statuses)
        if status == 0:
            self.close_connection = True
            return
        body = json.dumps({"pod": "one"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def peer() -> Iterator[str]:
    Handler.statuses = iter(STATUSES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_address[1]}/"
        serving.shutdown()
        thread.join()


def test_a_load_counts_every_request_once(peer: str) -> None:
    asking = load.Load(peer)
    for _ in STATUSES:
        asking.ask()
    found = json.loads(asking.report(done=True))
    asking.close()
    assert (found["requests"], found["failed"], found["answered_by"]) == (6, 2, {"one": 4})
    assert found["failures"].pop("status 503") == 1
    ((why, count),) = found["failures"].items()
    assert (why.split(":")[0], count) == ("RemoteDisconnected", 1)


def test_a_load_counts_who_cannot_be_reached() -> None:
    (port,) = free_ports("127.0.0.1", 1)
    asking = load.Load(f"http://127.0.0.1:{port}")
    asking.ask()
    assert (asking.requests, asking.failed, asking.answered_by) == (1, 1, {})


def test_a_client_tells_of_each_request_what_came_back(peer: str) -> None:
    found = [ask.ask(peer, {"x-a": "b"}) for _ in STATUSES]
    assert [each["status"] for each in found] == STATUSES
    assert found[0] == {"status": 200, "body": {"pod": "one"}, "error": ""}
    assert found[4]["error"].startswith("RemoteDisconnected")


def test_a_server_that_ends_is_not_ready_but_alive() -> None:
    state = server.State()
    assert server.answer(state, "/ready", ("10.0.0.1", 1))[0] == 200
    state.ready = False
    assert server.answer(state, "/ready", ("10.0.0.1", 1))[0] == 503
    assert server.answer(state, "/alive", ("10.0.0.1", 1))[0] == 200
    status, body = server.answer(state, "/else", ("10.0.0.1", 1), [(b"x-a", b"b")])
    said = json.loads(body)
    assert (status, said["peer"], said["path"], said["headers"]) == (200, "10.0.0.1", "/else", {"x-a": "b"})


@pytest.mark.parametrize("ready", [True, False])
async def test_a_server_that_ends_takes_leave_of_its_clients(ready: bool) -> None:
    state = server.State(ready)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        client = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        nursery.start_soon(server.http, state, await listener.accept())
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        answered = b""
        async with client:
            await client.send_all(request)
            while b"\r\n\r\n" not in answered or not answered.endswith(b"}\n"):
                answered += await client.receive_some(65536)
            assert answered.startswith(b"HTTP/1.1 200")
            assert (b"connection: close" in answered.lower()) != ready
            if not ready:
                assert await client.receive_some(1) == b""
    await listener.aclose()

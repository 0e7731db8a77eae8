from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from socketserver import TCPServer

import pytest

from ambimesh.apps import http_echo, tcp_client, tcp_echo
from ambimesh.apps.listening import peer_text


@contextmanager
def serving(server: TCPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield int(server.socket.getsockname()[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_addresses_in_their_usual_form() -> None:
    assert peer_text(("::ffff:10.0.0.1", 80, 0, 0)) == "10.0.0.1:80"
    assert peer_text(("fd00::1", 80, 0, 0)) == "[fd00::1]:80"
    assert peer_text(("10.0.0.1", 80)) == "10.0.0.1:80"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_http_echo_reports_peer_and_request(host: str, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(http_echo.EchoServer(("::", 0), http_echo.EchoHandler)) as port:
        shown = f"[{host}]" if ":" in host else host
        request = urllib.request.Request(f"http://{shown}:{port}/path?q", data=b"body", headers={"X-Tag": "v"})
        with urllib.request.urlopen(request) as answer:
            report = json.load(answer)
    assert report["peer"].startswith(f"{shown}:")
    assert (report["method"], report["path"], report["body"]) == ("POST", "/path?q", "body")
    assert report["headers"]["X-Tag"] == "v"


def test_a_body_without_bound_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        serving(http_echo.EchoServer(("::", 0), http_echo.EchoHandler)) as port,
        closing(socket.create_connection(("127.0.0.1", port))) as client,
    ):
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


def events(text: str) -> list[str]:
    return [json.loads(line)["event"] for line in text.splitlines()]


def test_the_client_keeps_a_connection_or_makes_one_each(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tcp_echo.EchoServer(("::", 0), tcp_echo.EchoHandler)) as port:
        assert tcp_client.keep_one("127.0.0.1", port, b"hello\n", 0.01, 0.1) == 0
        assert events(capsys.readouterr().out) == ["connected", "echoed", "done"]
        assert tcp_client.reconnect("127.0.0.1", port, b"hello\n", 0.01, 0.1) == 0
        assert set(events(capsys.readouterr().out)) == {"good"}


def test_the_client_says_when_it_was_refused_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        cutter = threading.Thread(target=lambda: listener.accept()[0].close())
        cutter.start()
        assert tcp_client.keep_one("127.0.0.1", port, b"hello\n", 0.01, 5) == 1
        cutter.join()
    assert events(capsys.readouterr().out)[-1] in ("closed", "failed")
    assert tcp_client.reconnect("127.0.0.1", port, b"hello\n", 0.02, 0.05) == 1
    assert set(events(capsys.readouterr().out)) == {"failed"}

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from mesh.errors import ConfigurationError, ConnectFailed, ConnectionLost, ProtocolViolation
from resources.kube import client_driver, credentials_driver, transport_driver
from resources.kube.client_driver import ApiClient, ApiRefused
from resources.kube.credentials_driver import ApiSettings
from resources.testing.api_server import ApiServer

PODS = "/api/v1/namespaces/n/pods"


async def test_objects_are_made_read_changed_and_applied(server: ApiServer, client: ApiClient) -> None:
    made = await client.create(PODS, {"metadata": {"name": "a"}})
    assert made["metadata"]["namespace"] == "n"
    made["spec"] = {"x": 1}
    assert (await client.replace(f"{PODS}/a", made))["spec"] == {"x": 1}
    with pytest.raises(ApiRefused, match="409: the object has been modified") as caught:
        await client.replace(f"{PODS}/a", made)
    assert (caught.value.status, caught.value.reason) == (409, "Conflict")
    applied = await client.apply(f"{PODS}/a/status", {"metadata": {"name": "a"}, "status": {"phase": "Running"}}, "m")
    assert applied["status"] == {"phase": "Running"}
    assert server.requests[-1].query == {"fieldManager": "m", "force": "true"}
    assert (await client.get(f"{PODS}/a")) == applied


async def test_connections_are_kept_and_a_stale_one_is_no_failure(server: ApiServer, client: ApiClient) -> None:
    await client.create(PODS, {"metadata": {"name": "a"}})
    for _ in range(3):
        await client.get(f"{PODS}/a")
    assert len(server._streams) == 1
    await server.break_connections()
    assert (await client.get(f"{PODS}/a"))["metadata"]["name"] == "a"


async def test_what_cannot_be_talked_to(server: ApiServer, client: ApiClient, tmp_path: Path) -> None:
    server.faults.away = True
    with pytest.raises(ConnectionLost):
        await client.get(PODS)
    await client.close()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    server.port = port
    nobody = ApiClient(ApiSettings(kubeconfig=server.kubeconfig(tmp_path / "nobody")))
    with pytest.raises(ConnectFailed, match=f"cannot connect to the API server at 127.0.0.1:{port}"):
        await nobody.get(PODS)


async def serve_once(answer: bytes) -> AsyncIterator[int]:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", ProtocolViolation),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", ConnectionLost),
        (b"", ConnectionLost),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops", ApiRefused),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n" + b"x" * 100, ProtocolViolation),
    ],
)
async def test_answers_that_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes, error: type[Exception]
) -> None:
    monkeypatch.setattr(client_driver, "MAX_ANSWER", 50)
    server = ApiServer()
    async for port in serve_once(answer):
        server.port = port
        client = ApiClient(ApiSettings(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig")))
        with pytest.raises(error):
            await client.get(PODS)
        await client.close()


async def test_a_server_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_driver, "REQUEST_SECONDS", 0.2)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server = ApiServer()
    server.port = listeners[0].socket.getsockname()[1]
    client = ApiClient(ApiSettings(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig")))
    with pytest.raises(ConnectFailed, match="did not answer within"):
        await client.get(PODS)
    await listeners[0].aclose()


async def test_a_program_gives_the_token_and_is_asked_again_when_it_is_refused(
    server: ApiServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first")
    program = tmp_path / "login"
    program.write_text(
        f"#!{sys.executable}\nimport json\n"
        f"token = open({str(token)!r}).read()\n"
        'print(json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", '
        '"status": {"token": token}}))\n'
    )
    program.chmod(0o755)
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
    content = msgspec.json.decode(kubeconfig.read_bytes())
    login = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program), "interactiveMode": "Never"}
    content["users"][0]["user"] = {"exec": login}
    kubeconfig.write_bytes(msgspec.json.encode(content))
    server.faults.tokens = {"first"}
    client = ApiClient(ApiSettings(kubeconfig=kubeconfig))
    await client.create(PODS, {"metadata": {"name": "a"}})
    token.write_text("second")
    server.faults.tokens = {"second"}
    await client.get(f"{PODS}/a")
    server.faults.tokens = set()
    with pytest.raises(ApiRefused, match="401"):
        await client.get(f"{PODS}/a")
    await client.close()


async def test_where_configuration_is_looked_for(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(ConfigurationError, match="name a kubeconfig, set KUBECONFIG, or run in a pod"):
        await ApiClient(ApiSettings()).check()
    with pytest.raises(ConfigurationError, match="no access to the Kubernetes API"):
        await ApiClient(ApiSettings(kubeconfig=tmp_path / "none")).check()
    kubeconfig = server.kubeconfig(tmp_path / "kubeconfig", token="x")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    await ApiClient(ApiSettings()).check()
    assert os.environ["KUBECONFIG"] == str(kubeconfig)
    with pytest.raises(ConfigurationError):
        await ApiClient(ApiSettings(kubeconfig=kubeconfig, context="another")).check()


async def test_through_a_proxy(server: ApiServer, tmp_path: Path) -> None:
    asked: list[bytes] = []

    async def proxy(stream: trio.SocketStream) -> None:
        asked.append(bytes(await stream.receive_some()))
        await stream.send_all(b"HTTP/1.1 200 Connected\r\n\r\n")
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as onward, trio.open_nursery() as nursery:

            async def carry(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                async for data in source:
                    await sink.send_all(data)
                nursery.cancel_scope.cancel()

            nursery.start_soon(carry, stream, onward)
            nursery.start_soon(carry, onward, stream)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, proxy, 0)
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
        content = msgspec.json.decode(kubeconfig.read_bytes())
        port = listeners[0].socket.getsockname()[1]
        content["clusters"][0]["cluster"]["proxy-url"] = f"http://127.0.0.1:{port}"
        kubeconfig.write_bytes(msgspec.json.encode(content))
        client = ApiClient(ApiSettings(kubeconfig=kubeconfig))
        await client.create(PODS, {"metadata": {"name": "a"}})
        assert asked[0].startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1".encode())
        await client.close()
        nursery.cancel_scope.cancel()


def test_bounds_are_sane() -> None:
    assert transport_driver.CONNECT_SECONDS < client_driver.REQUEST_SECONDS
    assert credentials_driver.REFRESH_SECONDS < 60

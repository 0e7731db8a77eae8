"""Nobody reaches anything through the mesh's own ports, from wherever and to whomever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from ambimesh.demo.stage import NAMESPACE
from ambimesh.lab import manifests
from ambimesh.lab.programs import Place, run

PORTS = (15001, 15006, 15008)

# Connects to each address, sends an HTTP request, and says what became of it:
# refused: nobody listens; closed: taken and ended without an answer; otherwise what was answered.
PROBE = """
import json, socket, sys
def probe(host, port):
    try:
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
            answer = sock.recv(4096)
            while answer.startswith(b"\\x15\\x03"):  # TLS alerts
                answer = answer[7:] or sock.recv(4096)
            return answer.decode(errors="replace") or "closed"
    except ConnectionRefusedError:
        return "refused"
    except (ConnectionResetError, BrokenPipeError):
        return "closed"
    except TimeoutError:
        return "hangs"
print(json.dumps([probe(*target.rsplit("=", 1)) for target in sys.argv[1:]]))
"""

CALLERS = [
    # who, calling whom; what may happen to un-enrolled and to enrolled pods
    ("client-a", "server"),
    ("client-a", "server v6"),
    ("client-a", "other node"),
    ("client-a", "visitor"),
    ("visitor", "server"),
    ("visitor", "server v6"),
    ("echo-1", "itself"),
    ("echo-1", "localhost"),
    ("echo-1", "localhost v6"),
    ("node1", "server"),
    ("node2", "server"),
]


def target(scene: Any, name: str) -> str:
    match name:
        case "localhost":
            return "127.0.0.1"
        case "localhost v6":
            return "::1"
        case "visitor":
            return str(scene.stage.address("visitor", "outside"))
        case "other node":
            return str(scene.stage.address("echo-2"))
    addresses = scene.stage.pod("echo-1").status.addresses
    return str(next(one for one in addresses if (":" in one) == name.endswith("v6")))


async def outcomes(scene: Any, caller: str, whom: str) -> list[str]:
    host = target(scene, whom)
    if caller.startswith("node"):
        found = []
        for port in PORTS:
            try:
                async with scene.dial(scene.node_netns(caller), host, port) as stream:
                    await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
                    with trio.fail_after(5):
                        answer = await stream.receive_some()
                    found.append("closed" if not answer or answer.startswith(b"\x15\x03") else repr(answer))
            except (trio.BrokenResourceError, ConnectionResetError):
                found.append("closed")
            except ConnectionRefusedError:
                found.append("refused")
        return found
    namespace = "outside" if caller == "visitor" else NAMESPACE
    result = await scene.script(caller, PROBE, *(f"{host}={port}" for port in PORTS), namespace=namespace)
    assert isinstance(result, list)
    return result


@pytest.mark.lab
async def test_nobody_gets_through_the_ports_of_the_mesh(scene: Any) -> None:
    for caller, whom in CALLERS:
        assert await outcomes(scene, caller, whom) == ["refused"] * 3, f"{caller} to {whom}, before enrolment"

    await scene.enrol()
    starts = {node: scene.position(node) for node in ("node1", "node2")}
    for caller, whom in CALLERS:
        found = await outcomes(scene, caller, whom)
        # Whether the kernel or ztunnel says no differs; that nothing is ever answered does not.
        assert set(found) <= {"refused", "closed"}, f"{caller} to {whom}: {found}"
        if caller.startswith(("node", "visitor")) and whom.startswith("server"):
            assert found == ["closed"] * 3, f"{caller} to {whom}: ztunnel takes what has no ticket, and ends it"

    def records() -> list[str]:
        return [line for node, at in starts.items() for line in scene.records(node, at)]

    # From the four callers outside: two ports refused as the mesh's own, one as no TLS.
    for reason, wanted in (("which is the mesh's own", 8), ("TLS", 4)):
        await scene.until(
            lambda reason=reason, wanted=wanted: sum(reason in one for one in records()) >= wanted, 5, records
        )
    assert all("error=" in line for line in records())

    # And nobody was harmed.
    assert await scene.stage.reaches("client-a", f"http://{target(scene, 'server')}:8080/")
    assert await scene.stage.reaches("client-a", f"http://{target(scene, 'other node')}:8080/")


SQUATTER = """
apiVersion: v1
kind: Pod
metadata: {name: squatter, namespace: demo}
spec:
  nodeName: node1
  serviceAccountName: echo
  terminationGracePeriodSeconds: 1
  containers:
    - {name: a, command: [python3, -m, ambimesh.apps.tcp_echo], args: [--port, "15001"]}
    - {name: b, command: [python3, -m, ambimesh.apps.tcp_echo], args: [--port, "15006"]}
    - {name: c, command: [python3, -m, ambimesh.apps.tcp_echo], args: [--port, "15008"]}
    - {name: d, command: [python3, -m, ambimesh.apps.tcp_echo], args: [--port, "9000"]}
"""


@pytest.mark.lab
async def test_a_pod_that_holds_the_ports_of_the_mesh(scene: Any, tmp_path: Path) -> None:
    """It is served all the same, gets nothing that was for ztunnel, and cannot make ztunnel call itself."""
    await scene.enrol(on=False)
    file = tmp_path / "squatter.yaml"
    file.write_text(SQUATTER)
    assert not manifests.apply(scene.stage.store, [file]).problems
    await scene.until(lambda: scene.stage.pod("squatter").status.ready, 20, lambda: "not ready")
    address = scene.stage.address("squatter")
    visitor = {"namespace": "outside"}

    async def echoes(pod: str, host: str, port: int, **more: str) -> bool:
        command = ["python3", "-m", "ambimesh.apps.tcp_client", host, str(port), "--seconds", "0.05"]
        _, output = await scene.stage.execute(pod, *command, **more)
        return '"echoed"' in output

    for port in (*PORTS, 9000):
        await scene.until(lambda port=port: echoes("visitor", address, port, **visitor), 10, lambda: "not listening")
    await scene.enrol()
    assert await echoes("client-a", address, 9000)
    assert await echoes("visitor", address, 9000, **visitor)
    assert await echoes("squatter", scene.stage.address("tcp-echo"), 9000)

    before = scene.descriptors("node1")
    listening = await run(["ss", "-Hltn"], place=Place(netns=scene.pod_netns("squatter")))
    ports = sorted({int(line.split()[3].rpartition(":")[2]) for line in listening.decode().splitlines()} - {9000})
    assert len(ports) > len(PORTS)  # those that ztunnel took instead
    for port in ports:
        assert not await echoes("client-a", address, port), port
        assert not await echoes("visitor", address, port, **visitor), port
        if port not in PORTS:  # those the pod holds itself are its own to call
            for host in (address, "127.0.0.1"):
                assert not await echoes("squatter", host, port), (host, port)
    assert scene.descriptors("node1") < before + 20

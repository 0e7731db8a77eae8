"""Nobody reaches anything through the mesh's own ports, from wherever and to whomever."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ambimesh.demo.stage import NAMESPACE

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

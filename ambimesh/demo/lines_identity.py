"""Lines 4 to 6: addresses as applications see them, identities as logs and metrics name them, spread over endpoints."""

from __future__ import annotations

import re
from collections import Counter

from ambimesh.demo.stage import NAMESPACE, Stage, require

CLIENT = "client-a"
FAR_ECHO = "echo-2"
CLIENT_IDENTITY = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/client-a"
SERVER_IDENTITY = f"spiffe://cluster.local/ns/{NAMESPACE}/sa/echo"
_CALLS = 24
_LEAST_SHARE = 3
"""Of 24 calls spread evenly at random, an endpoint gets fewer than this once in some 60,000 runs."""


async def addresses_kept(stage: Stage) -> str:
    """The server sees the client pod's own address, the client the address it dialled."""
    client, server = stage.address(CLIENT), stage.address(FAR_ECHO)
    service = stage.service_address("echo")
    shown: list[str] = []
    for dialled, port in ((server, 8080), (service, 80)):
        report = await stage.call(CLIENT, f"http://{dialled}:{port}/")
        require(report["peer"].startswith(f"{client}:"), f"the server saw {report['peer']}, the client is {client}")
        status, seen = await stage.curl(
            CLIENT, f"http://{dialled}:{port}/", "-o", "/dev/null", "-w", "%{remote_ip}:%{remote_port}"
        )
        require(status == 0 and seen == f"{dialled}:{port}", f"the client dialled {dialled}:{port} and sees {seen!r}")
        shown.append(f"dialled {seen}, server saw {report['peer']}")
    echo = stage.address("tcp-echo")
    async with stage.client(CLIENT, echo, 9000) as kept:
        await stage.until(lambda: kept.first("connected") is not None, 5, lambda: "the client did not connect")
        peer = (kept.first("connected") or {}).get("peer")
    require(peer == f"{echo}:9000", f"dialled {echo}:9000, getpeername gave {peer}")
    return f"client {client}: {'; '.join(shown)}; getpeername {peer}"


async def identities_named(stage: Stage) -> str:
    """Both access logs and both metrics pages name both SPIFFE identities."""
    marks = {node.name: len(stage.access_log(node.name)) for node in stage.lab.nodes}
    await stage.call(CLIENT, f"http://{stage.address(FAR_ECHO)}:8080/")
    shown: list[str] = []
    for node, direction in (("node1", "outbound"), ("node2", "inbound")):

        def recorded(node: str = node, direction: str = direction) -> bool:
            return any(names_both(line, direction) for line in stage.access_log(node)[marks[node] :].splitlines())

        await stage.until(recorded, 5, lambda node=node: f"no record with both identities in the log of {node}")  # type: ignore[misc]
        shown.append(f"{node} {direction}")
    counted: list[str] = []
    for node, reporter in (("node1", "source"), ("node2", "destination")):
        value = opened(await stage.metrics(node), reporter)
        require(value >= 1, f"istio_tcp_connections_opened_total of {node} does not count {CLIENT_IDENTITY}")
        counted.append(f"{node} {reporter} {value:g}")
    return (
        f"records with src {CLIENT_IDENTITY} and dst {SERVER_IDENTITY}: {', '.join(shown)}; "
        f"istio_tcp_connections_opened_total with both: {', '.join(counted)}"
    )


async def spread(stage: Stage) -> str:
    """Calls by Service address reach the endpoints of both nodes."""
    address = stage.service_address("echo")
    seen: Counter[str] = Counter()
    for _ in range(_CALLS):
        seen[(await stage.call(CLIENT, f"http://{address}/"))["pod"]] += 1
    counts = ", ".join(f"{pod} {count}" for pod, count in sorted(seen.items()))
    require(
        all(seen[pod] >= _LEAST_SHARE for pod in ("echo-1", "echo-2")), f"{_CALLS} calls went to {counts or 'nobody'}"
    )
    return f"{_CALLS} calls to {address}: {counts} (on node1 and node2)"


def names_both(line: str, direction: str) -> bool:
    """Whether an access log line of this direction names client and server."""
    return (
        f'direction="{direction}"' in line
        and f'src.identity="{CLIENT_IDENTITY}"' in line
        and f'dst.identity="{SERVER_IDENTITY}"' in line
    )


def opened(lines: list[str], reporter: str) -> float:
    """Connections from the client's identity to the server's that a metrics page counts."""
    wanted = (
        f'reporter="{reporter}"',
        f'source_principal="{CLIENT_IDENTITY}"',
        f'destination_principal="{SERVER_IDENTITY}"',
    )
    return sum(
        float(re.split(r"\s+", line)[1])
        for line in lines
        if line.startswith("istio_tcp_connections_opened_total{") and all(part in line for part in wanted)
    )

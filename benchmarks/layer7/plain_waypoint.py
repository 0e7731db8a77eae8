"""``python -m benchmarks.layer7.plain_waypoint PORT BACKEND ROUTES``: the waypoint's HTTP engine as a plain proxy.

Everything between a client's connection and its record is what a waypoint runs; only what carries the connections is
another: sockets on both sides, where a waypoint has streams of tunnels. The configuration is the scene's, as the
control plane would send it. The access log goes to standard output.
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
import time
from typing import Any

from mesh.process import prepare_proxy


def main() -> int:
    """Serve until SIGTERM; returns the exit status."""
    prepare_proxy()
    # Imported only now: OpenSSL reads its configuration when it is first loaded, and forms are chosen before modules.
    from mesh import compiled

    form = compiled.choose()
    print(f"form: {form.name} ({form.detail})", file=sys.stderr)
    import trio

    port, backend, routes = (int(text) for text in sys.argv[1:4])
    trio.run(_serve, port, backend, routes)
    return 0


async def _serve(port: int, backend: int, routes: int) -> None:
    import trio

    from benchmarks.layer7.waypoint_scene import ADDRESS, destination, resources
    from mesh.addresses import PeerAddress, SocketAddress, parse_ip
    from mesh.identity import SpiffeId
    from mesh.process import collect_rarely, raise_descriptor_limit
    from mesh.relay.acceptor import Acceptor
    from mesh.relay.engine import Engine
    from mesh.relay.owned_tasks import OwnedTasks
    from mesh.relay.pool import TunnelPool
    from mesh.relay.socket_end import RawSocket
    from mesh.state.store import MeshState
    from mesh.telemetry.metrics import new_registry
    from mesh.telemetry.output import standard_output
    from mesh.xds.codec import ADDRESS_TYPE
    from waypoint.client import Client
    from waypoint.config import GatewayGroup
    from waypoint.host import OwnNamespace, WaypointHost
    from waypoint.serving import Serving
    from waypoint.wire.socket_wire import SocketWire
    from waypoint.wire.timers import Timers
    from waypoint.wire.timers_driver import run_timers

    collect_rarely()
    raise_descriptor_limit()
    engine, timers, output = Engine(), Timers(time.monotonic), standard_output()
    gateway = GatewayGroup(
        name="waypoint", namespace="shop", service_account="waypoint", pod_name="waypoint", pod_ip=ADDRESS
    )
    state = MeshState("")
    refused = state.apply(ADDRESS_TYPE, resources(backend), [])
    if refused:
        raise SystemExit(f"resources were refused: {refused}")
    async with trio.open_nursery() as nursery:
        identity = SpiffeId("cluster.local", "shop", "waypoint")
        host = WaypointHost(gateway.key, identity, OwnedTasks(nursery, engine), OwnNamespace())
        no_contexts: Any = None
        serving = Serving(
            engine, timers, host, TunnelPool(engine, host, no_contexts), state, gateway, new_registry("waypoint", "0"),
            output, lambda uid: {},
        )
        served = serving.prepare(destination(routes), None)
        listener = socket.create_server((ADDRESS, port), backlog=1024)
        listener.setblocking(False)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        local = SocketAddress(parse_ip(ADDRESS), 80)

        def accepted(sock: RawSocket, peer: PeerAddress) -> None:
            wire = SocketWire(engine, socket.socket(fileno=sock.detach()))
            begin: Any = served.admit(Client(identity=None, address=peer, destination=local))
            begin(wire)
            wire.start()

        async def tick() -> None:
            while True:
                await trio.sleep(1)
                serving.tick(time.monotonic())

        nursery.start_soon(output.run)
        nursery.start_soon(engine.run)
        nursery.start_soon(run_timers, timers)
        nursery.start_soon(tick)
        acceptor = Acceptor(engine, listener, accepted)
        gc.collect()
        gc.freeze()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
        acceptor.close()
        nursery.cancel_scope.cancel()
    output.close()


if __name__ == "__main__":
    sys.exit(main())

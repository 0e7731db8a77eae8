"""Programs that stand in for others on a node, each given to ``python -c`` with its arguments behind it."""

from __future__ import annotations

ECHO = """
import socket, sys, threading
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
def serve(client):
    while data := client.recv(99):
        client.sendall(data)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
"""For an application: says what it hears, at the port it is given."""
ZTUNNEL = """
import pathlib, sys, trio
from mesh.zds.client_driver import run_zds_client
class Handler:
    async def add(self, uid, info, namespace):
        namespace.close()
    async def keep(self, uid): pass
    async def delete(self, uid): pass
    async def snapshot_sent(self): pass
    def disconnected(self): pass
trio.run(run_zds_client, pathlib.Path(sys.argv[1]), Handler())
"""
"""For a ztunnel: is told of pods at the agent's socket, whose path it is given, and does nothing for them."""

"""An API server that speaks the protocol of port-forwards: WebSocket frames whose first byte is a channel."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import yaml

from ambimesh.cluster.client_driver import Cluster

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PODS = "/api/v1/namespaces/mesh/pods"


class ApiServer:
    """Answers discovery, a list of pods, and port-forwards to ports that answer ``answer`` to everything."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.answer = b""
        self.refuse = ""
        self.pods: list[dict[str, object]] = []
        self.asked: list[bytes] = []
        self.ports: list[int] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> ApiServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # A connection of our own wakes the thread: closing a listener does not.
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                head = b""
                while b"\r\n\r\n" not in head:
                    received = connection.recv(65536)
                    if not received:
                        break
                    head += received
                if not head:
                    return
                path = head.split(b" ")[1].decode()
                if "/portforward" in path:
                    self._forward(connection, head, int(parse_qs(urlsplit(path).query)["ports"][0]))
                elif path.startswith(_PODS):
                    self._json(connection, {"items": self.pods})
                else:
                    self._json(connection, {"resources": [{"name": "pods", "kind": "Pod", "namespaced": True}]})

    def _json(self, connection: socket.socket, value: object) -> None:
        body = json.dumps(value).encode()
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def _forward(self, connection: socket.socket, head: bytes, number: int) -> None:
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        key = next(value for name, value in fields.items() if name.lower() == b"sec-websocket-key")
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        port = struct.pack("<H", number)
        self.ports.append(number)
        self._send(connection, b"\x00" + port)
        self._send(connection, b"\x01" + port)
        if self.refuse:
            self._send(connection, b"\x01" + self.refuse.encode())
        else:
            request = b""
            while b"\r\n\r\n" not in request:
                request += self._receive(connection)[1:]
            self.asked.append(request)
            self._send(connection, b"\x00" + self.answer)
        connection.recv(65536)  # the client closes
        connection.sendall(b"\x88\x00")

    def _send(self, connection: socket.socket, payload: bytes) -> None:
        length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + struct.pack(">H", len(payload))
        connection.sendall(b"\x82" + length + payload)

    def _receive(self, connection: socket.socket) -> bytes:
        stream = connection.makefile("rb", buffering=0)
        _, length = stream.read(2) or b"\x00\x00"
        length &= 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", stream.read(2) or b"\x00\x00")
        mask = stream.read(4) or b"\x00" * 4
        payload = b""
        while len(payload) < length:
            payload += stream.read(length - len(payload)) or b""
        return bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def cluster_of(server: ApiServer, folder: Path) -> Cluster:
    """A client of it."""
    file = folder / "kubeconfig"
    named = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    users = [{"name": "u", "user": {"token": "t"}}]
    file.write_text(
        yaml.safe_dump({"clusters": [named], "contexts": [context], "users": users, "current-context": "c"})
    )
    return Cluster(kubeconfig=str(file))


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """An HTTP answer."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)

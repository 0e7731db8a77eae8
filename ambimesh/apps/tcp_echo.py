"""``python3 -m ambimesh.apps.tcp_echo --port 9000``: sends back every byte it is sent."""

from __future__ import annotations

import argparse
import socket
import socketserver

from ambimesh.apps.listening import make_dual_stack


class EchoHandler(socketserver.BaseRequestHandler):
    """Echoes until the client has ended its side."""

    def handle(self) -> None:
        """Echo one connection."""
        while data := self.request.recv(65536):
            self.request.sendall(data)


class EchoServer(socketserver.ThreadingTCPServer):
    """A thread per connection, both address families on one socket."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def server_bind(self) -> None:
        """Bind for both families."""
        make_dual_stack(self.socket)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that resets its connection is no news."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9000)
    arguments = parser.parse_args()
    EchoServer(("::", arguments.port), EchoHandler).serve_forever()


if __name__ == "__main__":
    main()

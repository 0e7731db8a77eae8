"""``python3 -m ambimesh.apps.tcp_client HOST PORT``: sends lines to an echo, and says as JSON how it went.

By default one connection is kept and used again and again; with ``--reconnect`` every exchange has a connection of its
own. It ends after ``--seconds``, or when a kept connection ends.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time

from ambimesh.apps.listening import peer_text


def say(event: str, **fields: object) -> None:
    """Write one event at once."""
    sys.stdout.write(json.dumps({"event": event, "at": round(time.monotonic(), 4), **fields}) + "\n")
    sys.stdout.flush()


def echoed(connection: socket.socket, text: bytes) -> bool:
    """Send a line and read it back; False when the connection ended instead."""
    connection.sendall(text)
    received = b""
    while len(received) < len(text):
        data = connection.recv(65536)
        if not data:
            return False
        received += data
    return received == text


def keep_one(host: str, port: int, line: bytes, every: float, seconds: float) -> int:
    """Use one connection until it ends or the time is over; 0 in the latter case."""
    end = time.monotonic() + seconds
    exchanges = 0
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            say("connected", local=peer_text(connection.getsockname()), peer=peer_text(connection.getpeername()))
            while True:  # at least one exchange, however long it took to connect
                if not echoed(connection, line):
                    say("closed", exchanges=exchanges)
                    return 1
                exchanges += 1
                if exchanges == 1:
                    say("echoed")
                if time.monotonic() >= end:
                    break
                time.sleep(every)
    except OSError as error:
        say("failed", error=str(error), exchanges=exchanges)
        return 1
    say("done", exchanges=exchanges)
    return 0


def reconnect(host: str, port: int, line: bytes, every: float, seconds: float) -> int:
    """Make a connection per exchange until the time is over; 0 when all went well."""
    end = time.monotonic() + seconds
    failures = 0
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, port), timeout=2) as connection:
                good, reason = echoed(connection, line), "closed without an answer"
        except OSError as error:
            good, reason = False, str(error)
        if good:
            say("good")
        else:
            failures += 1
            say("failed", error=reason)
        time.sleep(every)
    return 1 if failures else 0


def main() -> None:
    """Run as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--text", default="hello", help="the line to send")
    parser.add_argument("--every", type=float, default=0.1, help="seconds between exchanges")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--reconnect", action="store_true")
    arguments = parser.parse_args()
    work = reconnect if arguments.reconnect else keep_one
    line = arguments.text.encode() + b"\n"
    sys.exit(work(arguments.host, arguments.port, line, arguments.every, arguments.seconds))


if __name__ == "__main__":
    main()

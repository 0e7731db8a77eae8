"""Real stores for shared rate limits, on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Redis:
    """The store of shared limits as it is installed: makes servers on loopback."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[int, tuple[subprocess.Popen[bytes], list[str]]] = {}

    @contextmanager
    def __call__(self, port: int | None = None, *options: str, option: str = "--port") -> Iterator[int]:
        """Serve; yields the port, which the kernel chooses unless it is given."""
        if port is None:
            with socket.create_server(("127.0.0.1", 0)) as chosen:
                port = chosen.getsockname()[1]
        arguments = [*options, option, str(port), "--save", "", "--dir", str(self._folder), "--bind", "127.0.0.1"]
        self._start(port, arguments)
        try:
            yield port
        finally:
            self._stop(port)

    @contextmanager
    def stopped(self, port: int) -> Iterator[None]:
        """A while without that server."""
        arguments = self._running[port][1]
        self._stop(port)
        yield
        self._start(port, arguments)

    def _start(self, port: int, arguments: list[str]) -> None:
        # Debian's server is this very program under its other name.
        command = ["redis-server", *arguments]
        process = subprocess.Popen(command, executable="/usr/bin/redis-check-rdb", stdout=subprocess.DEVNULL)
        self._running[port] = process, arguments
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    def _stop(self, port: int) -> None:
        process, _ = self._running.pop(port)
        process.terminate()
        process.wait(10)

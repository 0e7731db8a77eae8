"""The listening side of SOCK_SEQPACKET sockets."""

import errno
import socket
from pathlib import Path

import pytest
import trio

from mesh.errors import ConfigurationError
from mesh.zds import packet_driver


def test_a_listener_replaces_a_stale_socket_but_nothing_else(tmp_path: Path) -> None:
    async def listen() -> None:
        with packet_driver.listen(tmp_path / "z", socket.SOCK_SEQPACKET):
            assert (tmp_path / "z").stat().st_mode & 0o777 == 0o600
        with packet_driver.listen(tmp_path / "z", socket.SOCK_SEQPACKET):
            pass
        (tmp_path / "file").write_text("precious")
        with pytest.raises(ConfigurationError, match="no socket"):
            packet_driver.listen(tmp_path / "file", socket.SOCK_SEQPACKET)
        assert (tmp_path / "file").read_text() == "precious"
        with pytest.raises(ConfigurationError, match="longer than"):
            packet_driver.listen(tmp_path / ("x" * 120), socket.SOCK_SEQPACKET)

    trio.run(listen)


async def test_a_machine_out_of_descriptors_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accepting goes on afterwards; an agent that ended here would leave the node without one."""
    with packet_driver.listen(tmp_path / "z", socket.SOCK_SEQPACKET) as listener:
        real, failures = listener.accept, [errno.EMFILE, errno.ENFILE]

        async def short_of_descriptors() -> tuple[trio.socket.SocketType, object]:
            if failures:
                raise OSError(failures.pop(), "out of descriptors")
            return await real()

        monkeypatch.setattr(listener, "accept", short_of_descriptors)
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as caller:
            await caller.connect(str(tmp_path / "z"))
            with trio.fail_after(5):
                (await packet_driver.accept(listener)).close()
        assert failures == []
        failures.append(errno.EBADF)
        with pytest.raises(OSError, match="out of descriptors"):
            await packet_driver.accept(listener)

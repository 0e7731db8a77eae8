"""What can be shown where the kernel has no TLS, or wherever sockets are not TCP's; ``tests/vm`` has the rest."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

import pytest
import structlog.testing

from mesh.errors import TlsFailure
from mesh.tls import kernel_driver
from mesh.tls.kernel_codec import SOL_TLS, TCP_ULP, TLS_RX, TLS_TX, crypto_info
from mesh.tls.kernel_driver import KernelTls, NoKernelTls, describe, find_kernel_tls
from mesh.tls.key_log_driver import KeyLog
from mesh.tls.key_schedule_codec import SUITES, TrafficSecrets, record_keys

SUITE = SUITES["TLS_AES_256_GCM_SHA384"]
SECRETS = TrafficSecrets(b"c" * 48, b"s" * 48)
OF_CLIENT, OF_SERVER = (crypto_info(record_keys(SUITE, secret)) for secret in SECRETS)


class Options(socket.socket):
    """Takes all options until told to refuse one."""

    def __init__(self, refused: int | None = None, number: int = errno.EINVAL) -> None:
        super().__init__()
        self.refused, self.number = refused, number
        self.taken: list[tuple[int, int, bytes]] = []

    def setsockopt(self, level: int, option: int, value: object, size: object = None) -> None:
        if option == self.refused and level in (SOL_TLS, socket.IPPROTO_TCP):
            raise OSError(self.number, "refused")
        assert isinstance(value, bytes)
        self.taken.append((level, option, value))


@pytest.fixture
def kernel() -> KernelTls:
    return KernelTls(KeyLog())


@pytest.mark.parametrize(("server_side", "sends", "receives"), [
    (False, OF_CLIENT, OF_SERVER), (True, OF_SERVER, OF_CLIENT),
])  # fmt: skip
def test_each_side_sends_by_its_own_secret(kernel: KernelTls, server_side: bool, sends: bytes, receives: bytes) -> None:
    with Options() as sock:
        assert kernel.give(sock, SUITE, SECRETS, server_side=server_side)
        assert sock.taken == [
            (socket.IPPROTO_TCP, TCP_ULP, b"tls"), (SOL_TLS, TLS_TX, sends), (SOL_TLS, TLS_RX, receives)
        ]  # fmt: skip
    assert (kernel.given, kernel.declined) == (1, 0)
    assert describe(kernel) == "on: 1 connections, 0 declined"


@pytest.mark.parametrize("refused", [TCP_ULP, TLS_TX])
def test_a_kernel_that_takes_nothing_leaves_it_to_openssl(kernel: KernelTls, refused: int) -> None:
    with Options(refused) as sock, structlog.testing.capture_logs() as logs:
        assert not kernel.give(sock, SUITE, SECRETS, server_side=True)
    assert (kernel.given, kernel.declined) == (0, 1)
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_a_peer_that_closes_early_is_nothing_to_warn_of(kernel: KernelTls) -> None:
    with Options(TCP_ULP, errno.ENOTCONN) as sock, structlog.testing.capture_logs() as logs:
        assert not kernel.give(sock, SUITE, SECRETS, server_side=True)
    assert kernel.declined == 1
    assert logs == []


def test_half_of_it_fails_the_connection(kernel: KernelTls) -> None:
    with Options(TLS_RX) as sock, pytest.raises(TlsFailure, match="half"):
        kernel.give(sock, SUITE, SECRETS, server_side=True)
    assert kernel.given == 0


def test_a_real_socket_that_cannot_have_it_is_as_before(kernel: KernelTls) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not kernel.give(ours, SUITE, SECRETS, server_side=True)
        ours.send(b"plain")
        assert theirs.recv(16) == b"plain"


def test_nothing_is_tried_when_it_is_not_wished_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_driver, "_try_out", lambda _suite: pytest.fail("tried"))
    with structlog.testing.capture_logs() as logs:
        assert find_kernel_tls("never") == NoKernelTls("not wished for")
    assert logs == []


def failing(error: Exception) -> Callable[[object], None]:
    def fail(_suite: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOENT, "No such file or directory"), "modprobe tls"),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), "Cannot assign"),
        (TimeoutError("timed out"), "timed out"),
        (TlsFailure("the kernel's TLS does not give back what was sent"), "give back"),
    ],
)
def test_a_kernel_that_fails_the_trial_is_not_used(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_driver, "_try_out", failing(error))
    with structlog.testing.capture_logs() as logs:
        found = find_kernel_tls("auto")
    assert isinstance(found, NoKernelTls)
    assert words in found.reason
    assert describe(found) == f"off: {found.reason}"
    assert [(entry["event"], entry["reason"]) for entry in logs] == [("TLS of tunnels is OpenSSL's", found.reason)]


def test_what_this_kernel_offers_is_found_out_without_harm() -> None:
    """Whichever it is; sockets of the trial are closed (a warning would be an error)."""
    assert isinstance(find_kernel_tls("auto"), KernelTls | NoKernelTls)


def test_both_suites_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []
    monkeypatch.setattr(kernel_driver, "_try_out", tried.append)
    with structlog.testing.capture_logs() as logs:
        assert isinstance(find_kernel_tls("auto"), KernelTls)
    assert tried == list(SUITES.values())
    assert [entry["event"] for entry in logs] == ["TLS of tunnels is the kernel's"]

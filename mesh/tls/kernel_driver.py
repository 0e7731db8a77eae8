"""TLS in the kernel: a finished handshake's keys are given to its socket, which then sends and takes plain bytes.

Theory of operation
-------------------
*Where secrets come from.* The kernel wants the record keys of both directions. They follow from two traffic secrets by
RFC 8446 section 7.3 (``key_schedule_codec``), and OpenSSL tells these, of all that Python's ``ssl`` can reach, in the
key log of a context only. So contexts that are made while this is in use log to anonymous memory of this process
(``key_log_driver``).

*Whose they are.* Contexts are shared by all connections of an identity, and many handshakes are under way at a time.
Lines of a key log are usually told apart by the client's random, which they begin with. That random is chosen by the
client: one who has seen another's on the wire, and uses it for a handshake of its own, would make lines that look like
the other's, and a server that took them would encrypt the victim's bytes with keys the attacker knows. So lines belong
to a handshake because they were written *during a step of it*: the log is emptied right before ``do_handshake`` and
taken right after, and nothing else runs in between, since all handshakes of the process run in trio's thread and a step
has no ``await``. Lines of two randoms in what one handshake told are an error all the same.

*Where records stand.* A record's number is part of its nonce, so the kernel must begin at exactly the right one, and
bytes that OpenSSL has taken off the socket cannot be put back. The handshake therefore reads one record at a time when
its keys are to be given away (``handshake_driver``): header, then body, then a step. It ends with the record that
completes it, the Finished message of the peer, and the next bytes of the socket are the first record under the traffic
keys, number 0, whether the peer has sent any by then or not. In our direction nothing is sent under these keys by
OpenSSL: a server of this mesh sends no tickets (``mesh.tls.context``). So both directions begin at 0, always, and what
is left in OpenSSL's BIOs is looked at before it is relied on.

*Both or none.* Should the kernel refuse the protocol or the sending keys, the socket is as it was and OpenSSL goes on.
Should it refuse the receiving keys after that, there is no way back, and the connection fails.

*Afterwards* OpenSSL's object is dropped, and with it what it knows. The peer's identity has been read from it by then.
Python's own copies of secrets and keys are freed, not overwritten, as is all that Python frees; the process held the
private key in the same way before.

*What else may come.* The kernel opens every record and checks its tag. A record that fails it ends the connection
(EBADMSG). What is no application data is never mixed into it: a plain ``recv`` fails with EIO in front of such a
record, and ``recvmsg`` fetches it with its kind. Alerts end the tunnel as OpenSSL's errors would; tickets, which other
servers may send, are dropped, a bounded number of them. A key update ends the tunnel with an error that says so, as
kernels before 6.14 cannot take new keys for a socket, and OpenSSL, which could follow the secret, is gone. OpenSSL, on
the other side, sends one only when its user asks for it, which Python cannot; rustls, in Istio's ztunnel, does so by
itself when a key has protected some 2^24 records of whatever size (since its version 0.23.11). Neither OpenSSL nor the
kernel counts what our own keys protect; the bound of RFC 8446 section 5.5, 2^24.5 full records, is some 380 GiB of one
direction of a tunnel, with either of them.

*A connection that ends* without close_notify looks like one that ends with it: nothing is left to read. That is no
truncation that anybody falls for, as streams end by HTTP/2's END_STREAM, inside of records; the others are reset.

*What is refused.* Whether the kernel does all of this is tried, not guessed (:func:`find_kernel_tls`): two sockets over
loopback are given keys, send both ways, and an alert is fetched. Containers without CAP_NET_ADMIN have the module only
when somebody else has loaded it (``modprobe tls``).
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import structlog
import trio

from mesh.errors import EnvironmentLacks, MeshError, TlsFailure
from mesh.tls.kernel_codec import (
    ALERT,
    CLOSE_NOTIFY,
    SET_RECORD_TYPE,
    SOL_TLS,
    TCP_ULP,
    TLS_RX,
    TLS_TX,
    ULP_NAME,
    crypto_info,
    record_type,
)
from mesh.tls.key_log_driver import KeyLog
from mesh.tls.key_schedule_codec import SUITES, Suite, TrafficSecrets, record_keys

CONTROL_SPACE: Final = socket.CMSG_SPACE(1)
"""Room for a record's kind, for ``recvmsg``."""
_TRIAL_SECONDS: Final = 2.0

_log = structlog.get_logger("tls")

AnySocket: TypeAlias = trio.socket.SocketType | socket.socket
KernelTlsWish = Literal["auto", "never"]
"""``auto``: where the kernel offers it; ``never``: OpenSSL for all."""


class KernelTls:
    """Gives keys of finished handshakes to the kernel."""

    def __init__(self, key_log: KeyLog) -> None:
        self.key_log = key_log
        self.given = 0
        """Connections whose keys the kernel has taken."""
        self.declined = 0
        """Connections that stayed with OpenSSL all the same."""

    def give(
        self, sock: AnySocket, suite: Suite, secrets: TrafficSecrets, *, server_side: bool
    ) -> bool:
        """Give both directions' keys to the kernel; returns False if it has taken none and nothing has changed.

        Args:
            sock: nothing has been sent or received on it under these secrets.
            suite: what the handshake agreed on.
            secrets: its.
            server_side: which side we are.

        Raises:
            TlsFailure: the kernel has taken one direction's keys and refused the other's.
        """
        ours, theirs = (secrets.server, secrets.client) if server_side else (secrets.client, secrets.server)
        try:
            _give_sending(sock, suite, ours)
        except OSError as error:
            self.decline(error)
            return False
        try:
            _give_receiving(sock, suite, theirs)
        except OSError as error:
            raise TlsFailure(f"the kernel took only half of the connection's TLS ({error.strerror})") from error
        self.given += 1
        return True

    def decline(self, error: MeshError | OSError) -> None:
        """A connection stays with OpenSSL, for this reason."""
        self.declined += 1
        # That a peer has closed meanwhile is usual.
        if not (isinstance(error, OSError) and error.errno == errno.ENOTCONN):
            _log.warning("the kernel is not given a connection's TLS", error=str(error))


def _give_sending(sock: AnySocket, suite: Suite, secret: bytes) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, TCP_ULP, ULP_NAME)
    sock.setsockopt(SOL_TLS, TLS_TX, crypto_info(record_keys(suite, secret)))


def _give_receiving(sock: AnySocket, suite: Suite, secret: bytes) -> None:
    sock.setsockopt(SOL_TLS, TLS_RX, crypto_info(record_keys(suite, secret)))


def send_alert(sock: socket.socket, alert: bytes) -> None:
    """Send an alert on a socket with TLS in the kernel.

    Raises:
        OSError: it cannot be sent now.
    """
    sock.sendmsg([alert], [(SOL_TLS, SET_RECORD_TYPE, bytes([ALERT]))])


@dataclass(frozen=True, slots=True)
class NoKernelTls:
    """Connections stay with OpenSSL."""

    reason: str


def find_kernel_tls(wish: KernelTlsWish) -> KernelTls | NoKernelTls:
    """What is to be used, with a line in the log; takes some milliseconds, in which it waits for nobody else."""
    if wish == "never":
        return NoKernelTls("not wished for")
    try:
        for suite in SUITES.values():
            _try_out(suite)
        found = KernelTls(KeyLog())
    except OSError as error:
        reason = f"{error.strerror or error}"
        if error.errno == errno.ENOENT:
            reason = "no such protocol: `modprobe tls` on the node, where its kernel has that module"
    except (EnvironmentLacks, TlsFailure) as failure:
        reason = str(failure)
    else:
        _log.info("TLS of tunnels is the kernel's")
        return found
    _log.info("TLS of tunnels is OpenSSL's", reason=reason)
    return NoKernelTls(reason)


def describe(tls: KernelTls | NoKernelTls) -> str:
    """For people: which is used, and why, or how often."""
    if isinstance(tls, NoKernelTls):
        return f"off: {tls.reason}"
    return f"on: {tls.given} connections, {tls.declined} declined"


def _try_out(suite: Suite) -> None:
    """Have two sockets talk over loopback.

    Raises:
        OSError: the kernel does not take the keys, or not these, or what is sent does not arrive.
        TlsFailure: something else arrives than was sent.
    """
    of_client, of_server = os.urandom(suite.digest.digest_size), os.urandom(suite.digest.digest_size)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.settimeout(_TRIAL_SECONDS)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            server.settimeout(_TRIAL_SECONDS)
            _give_sending(client, suite, of_client)
            client.sendall(b"early")  # what is there before the other end has its keys must be opened, too
            _give_sending(server, suite, of_server)
            _give_receiving(server, suite, of_client)
            _give_receiving(client, suite, of_server)
            server.sendall(b"answer")
            send_alert(client, CLOSE_NOTIFY)
            if (server.recv(16), client.recv(16)) != (b"early", b"answer"):
                raise TlsFailure("the kernel's TLS does not give back what was sent")
            try:
                server.recv(16)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
            else:
                raise TlsFailure("the kernel's TLS takes an alert for application data")
            alert, ancillary, _, _ = server.recvmsg(16, CONTROL_SPACE)
            if (record_type(ancillary), alert) != (ALERT, CLOSE_NOTIFY):
                raise TlsFailure("the kernel's TLS does not tell an alert from other records")

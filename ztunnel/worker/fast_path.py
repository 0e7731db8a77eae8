"""What a worker tells the supervisor for the fast path.

The kernel's verdicts have one writer per node, the supervisor. A worker only reports what it admitted and which
services were dialled, each thing once in a while: what the supervisor remembers does not come through a worker again,
and what it does not remember need not be told for every connection. A report names the state it was judged by; the
supervisor judges again by its own and drops what was judged by an older one.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.addresses import IpBytes, OriginalDestination
from mesh.rbac import ConnectionFacts
from mesh.state.routes import ToWorkload
from ztunnel.fanout.messages_codec import Admitted, ServiceDialled
from ztunnel.pod import Pod

_MOST = 8192
"""Reports remembered as made."""

Reported = Callable[[Admitted | ServiceDialled], None]


class FastPathReports:
    """A ``ztunnel.fastpath.contract.FastPathMemory`` that passes on."""

    def __init__(self, node: str, send: Reported) -> None:
        self._node = node
        self._send = send
        self._local: dict[IpBytes, Pod] = {}
        self._told: set[tuple[int, object]] = set()
        self.version = 0
        """Of the state that connections are judged by now."""

    def forget(self) -> None:
        """Tell everything anew: the state is another, or time has passed."""
        self._told.clear()

    def pod_started(self, pod: Pod) -> None:
        """See ``FastPathMemory``."""
        for ip in pod.addresses:
            self._local[ip] = pod
        self.forget()

    def pod_stopped(self, pod: Pod) -> None:
        """See ``FastPathMemory``."""
        for ip in pod.addresses:
            if self._local.get(ip) is pod:
                del self._local[ip]

    def admitted(self, destination: Pod, facts: ConnectionFacts) -> None:
        """See ``FastPathMemory``."""
        if facts.source_ip in self._local and facts.source_identity is not None and self._first(destination, facts):
            self._send(
                Admitted(
                    version=self.version,
                    pod_cookie=destination.cookie,
                    source=facts.source_ip,
                    identity=str(facts.source_identity),
                    destination=facts.destination_ip,
                    port=facts.destination_port,
                )
            )

    def dialled_service(self, source: Pod, dialled: OriginalDestination, upstream: ToWorkload) -> None:
        """See ``FastPathMemory``."""
        if upstream.workload.node == self._node and self._first(source, dialled):
            self._send(
                ServiceDialled(
                    version=self.version, pod_cookie=source.cookie, address=dialled.ip, port=dialled.port
                )
            )

    def _first(self, pod: Pod, what: object) -> bool:
        key = pod.cookie, what
        if key in self._told:
            return False
        if len(self._told) >= _MOST:
            self._told.clear()
        self._told.add(key)
        return True

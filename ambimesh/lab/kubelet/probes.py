"""Probes as a kubelet makes them: HTTP and TCP from the caller's own namespace and cgroup, exec inside the pod.

Which containers are alive and ready is decided by ``ProbeState``, pure; this module also holds the small drivers that
try.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ambimesh.lab.http_client import exchange
from ambimesh.lab.programs import Place, ProgramFailed, base_environment, run_for_status
from mesh.errors import ConnectionLost
from resources.pod import Container, HttpGetAction, Probe


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one probe went."""

    success: bool
    reason: str


class ProbeState:
    """Counts outcomes into a verdict, with the thresholds of the probe (Kubernetes probe v1)."""

    def __init__(self, probe: Probe, initially: bool) -> None:
        self._probe = probe
        self._successes = 0
        self._failures = 0
        self.passing = initially
        """The verdict so far."""

    def record(self, outcome: Outcome) -> bool:
        """Count one outcome; True when the verdict changed."""
        before = self.passing
        if outcome.success:
            self._successes, self._failures = self._successes + 1, 0
            if self._successes >= max(1, self._probe.success_threshold):
                self.passing = True
        else:
            self._successes, self._failures = 0, self._failures + 1
            if self._failures >= max(1, self._probe.failure_threshold):
                self.passing = False
        return self.passing != before

    @property
    def exhausted(self) -> bool:
        """As many failures in a row as the threshold: what makes a liveness or startup probe restart its container."""
        return self._failures >= max(1, self._probe.failure_threshold)


def resolve_port(port: int | str, container: Container) -> int | None:
    """A probe's port as a number: a name is looked up among the container's ports."""
    if isinstance(port, int):
        return port
    if port.isascii() and port.isdigit():
        return int(port)
    return next((entry.container_port for entry in container.ports if entry.name == port), None)


async def attempt(probe: Probe, container: Container, address: str, place: Place) -> Outcome:
    """Make one probe.

    Args:
        address: the pod's primary address.
        place: where the container runs, for exec probes.
    """
    timeout = max(1, probe.timeout_seconds)
    if probe.exec is not None:
        return await _execute(probe.exec.command, place, timeout)
    action = probe.http_get or probe.tcp_socket
    if action is None:
        return Outcome(False, "the probe names none of httpGet, tcpSocket and exec")
    port = resolve_port(action.port, container)
    if port is None:
        return Outcome(False, f"the container has no port named {action.port!r}")
    host = action.host or address
    try:
        with trio.fail_after(timeout):
            if isinstance(action, HttpGetAction):
                return await _http(action, host, port)
            stream = await trio.open_tcp_stream(host, port)
            await stream.aclose()
            return Outcome(True, "connected")
    except trio.TooSlowError:
        return Outcome(False, f"no answer from {host}:{port} within {timeout} s")
    except (OSError, trio.BrokenResourceError, ConnectionLost) as error:
        return Outcome(False, f"{host}:{port}: {error}")


async def _execute(command: Sequence[str], place: Place, timeout: float) -> Outcome:
    if not command:
        return Outcome(False, "the probe's command is empty")
    try:
        status, output, errors = await run_for_status(
            command, place=place, timeout=timeout, environment=base_environment()
        )
    except ProgramFailed as error:
        return Outcome(False, str(error))
    words = (errors or output).decode(errors="replace").strip()[:200]
    return Outcome(status == 0, f"exit status {status}" + (f": {words}" if words and status else ""))


async def _http(action: HttpGetAction, host: str, port: int) -> Outcome:
    tcp = await trio.open_tcp_stream(host, port)
    stream: trio.abc.Stream = tcp
    if action.scheme.upper() == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname = False  # the kubelet does not verify either: it probes, it does not trust
        context.verify_mode = ssl.CERT_NONE
        stream = trio.SSLStream(tcp, context, https_compatible=True)
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [(header.name, header.value) for header in action.http_headers]
    if not any(name.lower() == "host" for name, _ in headers):
        headers.append(("Host", shown))
    headers.append(("User-Agent", "kube-probe/ambimesh-lab"))
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    try:
        answer = await exchange(stream, path, headers, body_limit=0)
        return Outcome(200 <= answer.status < 400, f"HTTP {answer.status}")
    finally:
        await trio.aclose_forcefully(stream)

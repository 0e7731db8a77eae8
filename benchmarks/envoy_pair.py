"""The peer: two Envoys that tunnel between the pods of a namespace of their own, as ztunnels do between enrolled pods.

One stands for each node's ztunnel. Each runs inside the network namespace of the pod it works for, where ztunnel has
its sockets too, with a process cgroup beside ztunnel's; so bytes pass the same loopbacks, links and bridges. They are
processes of the lab, and end with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import trio
from cryptography.hazmat.primitives import serialization

from ambimesh.lab.http_client import get
from ambimesh.lab.processes import Processes, ProcessSpec
from ambimesh.lab.programs import Place, ProgramFailed, run
from ambimesh.lab.record import Lab
from benchmarks.cases import ENVOY
from benchmarks.envoy_configuration import ADMIN_PORT, Files, client_configuration, server_configuration
from benchmarks.loads import IPERF_PORT, RR_PORT
from mesh.errors import ConnectFailed, ConnectionLost, EnvironmentLacks
from mesh.testing.ca import TestAuthority
from mesh.tls.credentials import Credentials

PORTS = (RR_PORT, RR_PORT + 1, IPERF_PORT)
CONCURRENCY = 2
"""Worker threads of each Envoy."""
_READY_SECONDS = 20.0
_CERTIFICATE_LIFETIME = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Site:
    """Where one of the two is to run."""

    node: str
    netns: Path


class EnvoyPair:
    """Both Envoys of one lab; ``client`` and ``server`` are where they run."""

    def __init__(self, lab: Lab, client: Site, server: Site) -> None:
        self._processes = Processes(lab.layout)
        self._lab = lab
        self._sites = (client, server)
        self._folder = lab.layout.root / ENVOY.proxy

    async def start(self, program: Path, server_address: str) -> None:
        """Write certificates and configurations, have Envoy check these, and start both.

        Args:
            program: the Envoy binary.
            server_address: IPv4 address of the server's pod.

        Raises:
            EnvironmentLacks: Envoy refuses its configuration, or does not become ready; with its own words.
        """
        self._folder.mkdir(mode=0o700)
        authority = TestAuthority()
        client, server = (authority.identity(ENVOY.namespace, account) for account in ("client", "server"))
        makers: tuple[Callable[[Files], dict[str, Any]], ...] = (
            lambda files: client_configuration(files, server_address, server, PORTS),
            lambda files: server_configuration(files, server_address, client, PORTS),
        )
        for site, identity, make in zip(self._sites, (client, server), makers, strict=True):
            files = self._written(site, authority.issue(identity, lifetime=_CERTIFICATE_LIFETIME))
            configuration = self._folder / f"{site.node}.json"
            configuration.write_bytes(msgspec.json.format(msgspec.json.encode(make(files))))
            await validate(program, configuration, site.netns)
            spec = self._spec(site, program, configuration)
            await trio.Path(spec.cgroup).mkdir(exist_ok=True)
            await self._processes.start(spec)
        await self._until_ready()

    def _written(self, site: Site, credentials: Credentials) -> Files:
        base = self._folder / site.node
        files = Files(
            certificate=base.with_suffix(".crt"),
            key=base.with_suffix(".key"),
            roots=base.with_suffix(".roots"),
            access_log=self._lab.layout.logs / f"{_name(site)}.access.log",
        )
        files.certificate.write_bytes(b"".join(credentials.certificate_chain))
        files.key.touch(mode=0o600)
        files.key.write_bytes(
            credentials.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files.roots.write_bytes(credentials.roots)
        return files

    def _spec(self, site: Site, program: Path, configuration: Path) -> ProcessSpec:
        options = ("--concurrency", str(CONCURRENCY), "--disable-hot-restart", "--log-level", "error")
        return ProcessSpec(
            name=_name(site),
            argv=(str(program), "-c", str(configuration), *options),
            netns=str(site.netns),
            cgroup=str(self._lab.node_cgroup(self._lab.node(site.node)) / ENVOY.proxy),
        )

    async def restart(self) -> None:
        """Start both anew, so that what earlier loads left in their memory is gone.

        Raises:
            EnvironmentLacks: one does not become ready again.
        """
        for site in self._sites:
            await self._processes.restart(_name(site))
        await self._until_ready()

    async def _until_ready(self) -> None:
        for site in self._sites:
            deadline = trio.current_time() + _READY_SECONDS
            while not await self._ready(site):
                if trio.current_time() > deadline or not self._processes.is_running(_name(site)):
                    raise self._processes.failure(_name(site), "is not ready")
                await trio.sleep(0.05)

    async def _ready(self, site: Site) -> bool:
        try:
            return (await get(site.netns, ADMIN_PORT, "/ready")).status == 200
        except (ConnectFailed, ConnectionLost):
            return False

    async def admitted(self) -> int:
        """How many connections the server's policy has admitted, by Envoy's own count.

        Raises:
            ConnectFailed: Envoy does not answer.
        """
        answer = await get(self._sites[1].netns, ADMIN_PORT, "/stats?filter=rbac.allowed$")
        return counted(answer.body.decode())


def counted(statistics: str) -> int:
    """The sum of what lines ``name: number`` of Envoy's statistics say."""
    return sum(int(line.rpartition(":")[2]) for line in statistics.splitlines() if ":" in line)


async def validate(program: Path, configuration: Path, netns: Path | None) -> None:
    """Have Envoy check a configuration, in the namespace it is for (None: the caller's).

    Raises:
        EnvironmentLacks: it refuses it; with its own words.
    """
    argv = [str(program), "--mode", "validate", "--log-level", "error", "-c", str(configuration)]
    try:
        await run(argv, place=Place(netns=netns))
    except ProgramFailed as error:
        raise EnvironmentLacks(f"Envoy refuses the configuration {configuration.name}: {error}") from error


def _name(site: Site) -> str:
    return f"{ENVOY.proxy}-{site.node}"

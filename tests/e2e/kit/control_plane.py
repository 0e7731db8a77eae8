"""A control plane: etcd and the API server, and on request the controller manager and the scheduler.

All real, on one address, on ports nobody else uses, in a folder that goes with it. With etcd and the API server alone,
objects are stored, validated, watched and served as in any cluster, and nothing acts on them: no pod is scheduled, no
service account made for a namespace, nothing collected when its owner goes. What tests then want of a kubelet or
controller they write themselves, through the same API (the ``status`` of a pod, an EndpointSlice).
"""

from __future__ import annotations

import base64
import http.client
import json
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jwt

from mesh.errors import EnvironmentLacks
from tests.e2e.kit import build, pki
from tests.e2e.kit.ports import free_ports
from tests.e2e.kit.processes import NotServing, Process
from tests.e2e.kit.segment import Segment

LOOPBACK = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
"""The first of the range: the Service that every cluster has."""
ISSUER = "https://kubernetes.default.svc.cluster.local"
"""Of service accounts' tokens, and their audience where none is asked for."""
_API_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    ISSUER.removeprefix("https://"),
)
_START_SECONDS = 60.0
_TRIES = 3
_REQUEST_SECONDS = 5.0
_KUBECTL_SECONDS = 120.0


class KubectlFailed(EnvironmentLacks):
    """kubectl ended with an error; the message is what it said."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a control plane consists of."""

    controllers: bool = False
    """The controller manager: service accounts, endpoint slices, Deployments, garbage collection, ..."""
    scheduler: bool = False
    address: str = LOOPBACK
    """Where the API server listens; etcd and the others stay on loopback."""
    api_arguments: Sequence[str] = ()
    """Further arguments of the API server."""
    controller_arguments: Sequence[str] = ()
    etcd_arguments: Sequence[str] = ()
    segment: Segment | None = None
    """The network to run in, if not the machine's own."""


class ControlPlane:
    """One that runs; made by `running_control_plane`."""

    def __init__(self, wish: Wish, folder: Path) -> None:
        self._wish = wish
        self.folder = folder
        """Holds its keys, logs and data; removed with it."""
        self.authority = pki.Authority(folder / "pki")
        with self._inside():
            self._etcd_port, self._peer_port, self._controllers_port, self._scheduler_port = free_ports(LOOPBACK, 4)
            (self._api_port,) = free_ports(wish.address, 1)
        self._signing_key, self._signing_key_public = self.authority.signing_key("service-accounts")
        self._admin = self.authority.client("admin", [pki.ADMINISTRATORS])
        self._etcd: Process | None = None
        self._api_server: Process | None = None
        self._others: list[Process] = []
        self.kubeconfig = self.kubeconfig_of("admin", [pki.ADMINISTRATORS])
        """An administrator's."""

    @property
    def url(self) -> str:
        """The API server's."""
        return f"https://{self._wish.address}:{self._api_port}"

    @property
    def certificate_authority(self) -> Path:
        """What clients trust, PEM."""
        return self.authority.certificate

    # -- clients -------------------------------------------------------------------------------------------------------

    def kubeconfig_of(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig of a user of these groups, who may do what RBAC lets them."""
        return self._write_kubeconfig(f"{user}+{'+'.join(groups)}", self.authority.client(user, groups))

    def kubeconfig_with_token(self, name: str, token: str) -> Path:
        """A kubeconfig that presents a bearer token, such as `token` gives."""
        return self._write_kubeconfig(name, token)

    def token(self, namespace: str, service_account: str, *options: str) -> str:
        """A token of a service account; ``options`` are those of ``kubectl create token`` (``--audience=...``)."""
        return self.kubectl("create", "token", service_account, "--namespace", namespace, *options).strip()

    def signed(self, claims: Mapping[str, Any]) -> str:
        """A token of these claims, signed as the API server signs; also such as it gives to nobody."""
        return jwt.encode(dict(claims), self._signing_key.read_bytes(), algorithm="ES256")

    def store(self, key: str, value: Mapping[str, Any]) -> None:
        """Put an object where the API server keeps objects, past all that it would refuse; who watches is told.

        Raises:
            EnvironmentLacks: etcd does not take it.
        """
        entry = {"key": key.encode(), "value": json.dumps(value).encode()}
        body = json.dumps({name: base64.b64encode(part).decode() for name, part in entry.items()})
        connection = http.client.HTTPConnection(LOOPBACK, self._etcd_port, timeout=_REQUEST_SECONDS)
        with self._inside(), closing(connection):
            connection.request("POST", "/v3/kv/put", body)
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise EnvironmentLacks(f"etcd does not take {key}: {answer.status}: {answer.read()[:500]!r}")

    def kubectl(self, *arguments: str, manifest: str | None = None, kubeconfig: Path | None = None) -> str:
        """Run kubectl, as administrator unless told otherwise; ``manifest`` is its standard input (``-f -``).

        Raises:
            KubectlFailed: it failed.
        """
        done = subprocess.run(
            self.command(build.program("kubectl"), *arguments),
            input=manifest,
            env=self.environment(kubeconfig),
            capture_output=True,
            text=True,
            timeout=_KUBECTL_SECONDS,
            check=False,
        )
        if done.returncode:
            raise KubectlFailed(f"kubectl {' '.join(arguments)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def command(self, *command: str | Path) -> list[str]:
        """The command that runs this command where the API server can be reached."""
        return [str(word) for word in command] if self._wish.segment is None else self._wish.segment.command(*command)

    def environment(self, kubeconfig: Path | None = None) -> Mapping[str, str]:
        """The environment of a client that finds this cluster, and none of a user's files."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder),
            "KUBECONFIG": str(kubeconfig or self.kubeconfig),
        }

    # -- its programs ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything, one after the other as each needs the one before.

        Raises:
            NotServing: a program did not come up.
        """
        self._etcd = self._start_etcd()
        self.start_api_server()
        self.start_others()

    def start_others(self) -> None:
        """Start the controllers and the scheduler, as far as they are wished for, for the first time or again.

        Raises:
            NotServing: one did not come up.
        """
        assert not self._others
        if self._wish.controllers:
            self._others.append(self._start_controllers())
        if self._wish.scheduler:
            self._others.append(self._start_scheduler())
        for process, port in zip(self._others, self._other_ports(), strict=True):
            process.wait_until(partial(self._answers, LOOPBACK, port, "/healthz", _unchecked()), _START_SECONDS)

    def stop_others(self) -> None:
        """End the controllers and the scheduler."""
        for process in self._others:
            process.kill()
        self._others.clear()

    def stop(self) -> None:
        """Stop everything that runs."""
        self.stop_others()
        for process in (self._api_server, self._etcd):
            if process is not None:
                # Its data go with it: there is nothing to be flushed, and a graceful end takes seconds.
                process.kill()
        self._api_server = self._etcd = None

    def stop_api_server(self) -> None:
        """Make the API server go away, as a crash does; its data and its clients' certificates stay."""
        assert self._api_server is not None
        self._api_server.kill()
        self._api_server = None

    def start_api_server(self) -> None:
        """Start the API server, for the first time or again.

        Raises:
            NotServing: it did not come up.
        """
        assert self._api_server is None
        self._api_server = self._process("kube-apiserver", self._api_server_arguments())
        context = ssl.create_default_context(cafile=str(self.certificate_authority))
        context.load_cert_chain(self._admin.certificate, self._admin.key)
        self._api_server.wait_until(
            lambda: self._answers(self._wish.address, self._api_port, "/readyz", context), _START_SECONDS
        )

    def _start_etcd(self) -> Process:
        client, peer = (f"http://{LOOPBACK}:{port}" for port in (self._etcd_port, self._peer_port))
        etcd = self._process(
            "etcd",
            [
                "--name=test",
                f"--data-dir={self.folder / 'etcd'}",
                f"--listen-client-urls={client}",
                f"--advertise-client-urls={client}",
                f"--listen-peer-urls={peer}",
                f"--initial-advertise-peer-urls={peer}",
                f"--initial-cluster=test={peer}",
                "--unsafe-no-fsync",  # nobody needs these data after a power failure
                "--log-level=warn",
                *self._wish.etcd_arguments,
            ],
        )
        etcd.wait_until(lambda: self._answers(LOOPBACK, self._etcd_port, "/health", None), _START_SECONDS)
        return etcd

    def _api_server_arguments(self) -> list[str]:
        authority = self.authority
        server = authority.server("kube-apiserver", [*_API_NAMES, LOOPBACK, API_SERVICE_ADDRESS, self._wish.address])
        kubelets = authority.client("kube-apiserver-kubelet-client", [pki.ADMINISTRATORS])
        # The address that the Service "kubernetes" leads to cannot be loopback's: then it leads nowhere.
        reconciler = "none" if self._wish.address == LOOPBACK else "lease"
        return [
            f"--etcd-servers=http://{LOOPBACK}:{self._etcd_port}",
            f"--bind-address={self._wish.address}",
            f"--advertise-address={self._wish.address}",
            f"--secure-port={self._api_port}",
            f"--endpoint-reconciler-type={reconciler}",
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            f"--client-ca-file={authority.certificate}",
            f"--cert-dir={self.folder / 'pki'}",
            f"--service-account-issuer={ISSUER}",
            f"--service-account-key-file={self._signing_key_public}",
            f"--service-account-signing-key-file={self._signing_key}",
            f"--api-audiences={ISSUER}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={kubelets.certificate}",
            f"--kubelet-client-key={kubelets.key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--shutdown-delay-duration=0s",
            *self._wish.api_arguments,
        ]

    def _start_controllers(self) -> Process:
        return self._process(
            "kube-controller-manager",
            [
                *self._client_arguments("system:kube-controller-manager", self._controllers_port),
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={self._signing_key}",
                f"--root-ca-file={self.certificate_authority}",
                # With the defaults, its controllers wait some five seconds for their turn while they start.
                "--kube-api-qps=500",
                "--kube-api-burst=1000",
                *self._wish.controller_arguments,
            ],
        )

    def _start_scheduler(self) -> Process:
        return self._process("kube-scheduler", self._client_arguments("system:kube-scheduler", self._scheduler_port))

    def _client_arguments(self, user: str, port: int) -> list[str]:
        kubeconfig = self.kubeconfig_of(user)
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            f"--bind-address={LOOPBACK}",
            f"--secure-port={port}",
            f"--cert-dir={self.folder / 'pki'}",
            "--leader-elect=false",
        ]

    def _other_ports(self) -> list[int]:
        wanted = ((self._wish.controllers, self._controllers_port), (self._wish.scheduler, self._scheduler_port))
        return [port for is_wanted, port in wanted if is_wanted]

    def _process(self, name: str, arguments: Sequence[str]) -> Process:
        return Process(
            name,
            self.command(build.program(name), *arguments),
            self.folder / f"{name}.log",
            environment=self.environment(),
        )

    def _inside(self) -> AbstractContextManager[None]:
        return nullcontext() if self._wish.segment is None else self._wish.segment.entered()

    def _answers(self, address: str, port: int, path: str, context: ssl.SSLContext | None) -> bool:
        with self._inside():
            return _answers(address, port, path, context)

    def _write_kubeconfig(self, name: str, client: pki.Pair | str) -> Path:
        path = self.folder / f"{name.replace(':', '-').replace('/', '-')}.kubeconfig"
        return pki.write_private(path, pki.kubeconfig(self.url, self.certificate_authority, client))


@contextmanager
def running_control_plane(wish: Wish = Wish()) -> Iterator[ControlPlane]:
    """A control plane for the length of the block: some 3 seconds with etcd and the API server.

    Raises:
        EnvironmentLacks: the programs have not been built.
        NotServing: a program did not come up.
    """
    with ExitStack() as stack:
        for attempt in range(1, _TRIES + 1):
            folder = Path(tempfile.mkdtemp(prefix="ambimesh-kubernetes-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            plane = ControlPlane(wish, folder)
            stack.callback(plane.stop)
            try:
                plane.start()
            except NotServing as error:
                # Somebody else took a port between the look and the use.
                if "address already in use" not in str(error) or attempt == _TRIES:
                    raise
                plane.stop()
                continue
            break
        yield plane


def _unchecked() -> ssl.SSLContext:
    """Of programs that make certificates of their own, asked only whether they are there."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _answers(address: str, port: int, path: str, context: ssl.SSLContext | None) -> bool:
    """Whether a GET is answered with 200."""
    connection = (
        http.client.HTTPConnection(address, port, timeout=_REQUEST_SECONDS)
        if context is None
        else http.client.HTTPSConnection(address, port, timeout=_REQUEST_SECONDS, context=context)
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()

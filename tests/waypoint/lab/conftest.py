"""A mesh with waypoints, one lab for all tests of this folder: two namespaces with a waypoint each.

Everything is the real thing: manifests in the lab's folder, the operator that translates them, ztunnels, waypoints. A
test has Services of its own, so that none sees another's routes. What a route does is looked for until it is seen three
times in a row, as changes take a moment.
"""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from ambimesh.lab import pods, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.http_client import get
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.mesh_processes import OPERATOR_HTTP_PORT, ztunnel_name
from ambimesh.lab.processes import Processes
from ambimesh.lab.programs import launch_arguments
from ambimesh.lab.record import Lab
from ambimesh.lab.take_down import take_down
from ambimesh.lab.ztunnel_admin import fetch
from controlplane.reconcile.waypoints import GATEWAY_NAME_LABEL, REPLICAS_ANNOTATION
from mesh.errors import ObjectMissing
from resources.decode import decode_documents
from resources.folder_store import FolderStore
from resources.objects import Gateway, GRPCRoute, HTTPRoute, KubernetesObject, ObjectKey, Pod, Service

HERE = Path(__file__).parent
PRODUCER, CONSUMER = "conformance", "consumer"
HTTP, GRPC = 80, 7070
_SECONDS = 15.0
_IN_A_ROW = 3


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int | None = None
    """Of HTTP, or of gRPC; None if nothing came."""
    headers: list[list[str]] = field(default_factory=list)
    body: str = ""
    error: str = ""

    @property
    def seen(self) -> dict[str, Any]:
        """What the server reported of the request; nothing if it was not the echo that answered."""
        try:
            report = json.loads(self.body)
        except ValueError:
            return {}
        return report if isinstance(report, dict) else {}

    @property
    def pod(self) -> str:
        """Who answered."""
        return str(self.seen.get("pod", ""))

    def header(self, name: str) -> str | None:
        """One of the answer's headers."""
        return next((value for each, value in self.headers if each.lower() == name.lower()), None)

    def received(self, name: str) -> str | None:
        """One of the request's headers, as the server got it."""
        headers = self.seen.get("headers", {})
        pairs = headers.items() if isinstance(headers, dict) else headers
        values = [value for each, value in pairs if each.lower() == name.lower()]
        return ",".join(values) if values else None


class Asker:
    """A program in a pod that makes requests."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        pod = pods.find_pod(lab, namespace, "client")
        environment = pods.environment_of(pod)
        self._process = subprocess.Popen(
            launch_arguments(["python3", str(HERE / "asker.py")], pods.place_of(lab, pod), environment=environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **request: Any) -> list[Answer]:
        """Make requests (``asker.py``)."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return [Answer(**each) for each in json.loads(process.stdout.readline())]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


class Load:
    """A program in a pod that makes requests until it is stopped."""

    def __init__(self, lab: Lab, *arguments: str) -> None:
        pod = pods.find_pod(lab, PRODUCER, "client")
        command = ["python3", str(HERE / "load.py"), *arguments]
        self._process = subprocess.Popen(
            launch_arguments(command, pods.place_of(lab, pod), environment=pods.environment_of(pod)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def stop(self) -> dict[str, Any]:
        """What it has seen (``load.py``)."""
        output, _ = self._process.communicate(timeout=30)
        report = json.loads(output)
        assert isinstance(report, dict)
        return report


class Mesh:
    """The lab, and what tests do to it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.store = FolderStore(lab.layout.cluster)
        self.askers = {namespace: Asker(lab, namespace) for namespace in (PRODUCER, CONSUMER)}

    def objects(self, text: str) -> list[KubernetesObject]:
        """Of YAML."""
        found, problems = decode_documents(textwrap.dedent(text), "test")
        assert problems == []
        return list(found)

    def apply(self, text: str) -> list[KubernetesObject]:
        """Put objects into the cluster; what is wrong with one fails the test."""
        found = self.objects(text)
        for each in found:
            self.store.apply(each)
        return found

    def delete(self, text: str) -> None:
        """Take objects away again."""
        for each in self.objects(text):
            self.store.delete(type(each), each.metadata.namespace, each.metadata.name)

    @contextmanager
    def services(self, *names: str) -> Iterator[None]:
        """Services for the length of the block, each with one for either version: ``NAME-v1``, ``NAME-v2``."""
        made = (HERE / "service.yaml").read_text()
        text = "---\n".join(
            made.replace("NAME", f"{name}{suffix}").replace("MORE", more)
            for name in names
            for suffix, more in (("", ""), ("-v1", ", version: v1"), ("-v2", ", version: v2"))
        )
        self.apply(text)
        try:
            self.until(lambda: all(self.address(name) for name in names), lambda: "no address was given")
            yield
        finally:
            self.delete(text)

    @contextmanager
    def routes(self, text: str) -> Iterator[None]:
        """Routes and the like for the length of the block, which begins once all are accepted."""
        made = self.apply(text)
        try:
            routes = [each for each in made if isinstance(each, HTTPRoute | GRPCRoute)]
            self.until(lambda: all(map(self.accepted, routes)), lambda: f"one of {routes} is not accepted")
            yield
        finally:
            self.delete(text)

    def _said(self, key: ObjectKey) -> dict[str, Any]:
        answer = trio.run(get, self.lab.layout.control_netns, OPERATOR_HTTP_PORT, "/debug/statuses")
        for each in json.loads(answer.body)["statuses"]:
            if ObjectKey(each["kind"], each["namespace"], each["name"]) == key:
                return dict(each)
        return {"parents": [], "conditions": []}

    def conditions(self, route: KubernetesObject) -> list[dict[str, tuple[bool, str]]]:
        """What the operator says of a route: for each parent its conditions, by type, with status and reason."""
        return [
            {one["type"]: (one["status"], one["reason"]) for one in parent["conditions"]}
            for parent in self._said(route.key)["parents"]
        ]

    def bound(self, service: str) -> str:
        """The reason of a Service's condition ``istio.io/WaypointBound``; empty if there is none."""
        said = self._said(ObjectKey("Service", PRODUCER, service))["conditions"]
        return next((str(one["reason"]) for one in said if one["type"] == "istio.io/WaypointBound"), "")

    def accepted(self, route: KubernetesObject) -> bool:
        """Whether each of a route's parents takes it, and all its references lead somewhere."""
        parents = self.conditions(route)
        return bool(parents) and all(
            conditions["Accepted"][0] and conditions["ResolvedRefs"][0] for conditions in parents
        )

    def reason(self, route: KubernetesObject, condition: str) -> str:
        """The reason of a condition of a route with one parent; empty before anything is said."""
        return next((parent[condition][1] for parent in self.conditions(route) if condition in parent), "")

    def address(self, service: str) -> str:
        """A Service's cluster address; empty if it has none yet."""
        found = self.store.get(Service, PRODUCER, service).spec.virtual_addresses
        return found[0] if found else ""

    def pod_address(self, pod: str) -> str:
        """A pod's address."""
        return self.store.get(Pod, PRODUCER, pod).status.addresses[0]

    def ask(
        self,
        service: str,
        path: str = "/",
        *,
        address: str = "",
        client: str = PRODUCER,
        port: int = HTTP,
        method: str = "GET",
        host: str = "",
        headers: dict[str, str] | None = None,
        count: int = 1,
    ) -> list[Answer]:
        """Make requests to a Service from a client's namespace.

        Args:
            service: its name.
            path: with the query; of gRPC ``/package.Service/Method``.
            address: dialled; the Service's own if it is left out.
            client: the namespace of the pod that asks.
            port: dialled; gRPC is spoken on its own.
            method: of HTTP.
            host: said; the Service's name if it is left out.
            headers: of the request.
            count: how many, on one connection.
        """
        return self.askers[client].ask(
            address=address or self.address(service),
            port=port,
            path=path,
            method=method,
            host=host or service,
            headers=list((headers or {}).items()),
            count=count,
            grpc=port == GRPC,
        )

    def expect(
        self,
        service: str,
        path: str = "/",
        *,
        wanted: Callable[[Answer], bool],
        in_a_row: int = _IN_A_ROW,
        **request: Any,
    ) -> Answer:
        """Ask until what comes back is as wanted, some times in a row."""
        deadline = time.monotonic() + _SECONDS
        row = 0
        while True:
            (answer,) = self.ask(service, path, **request)
            row = row + 1 if wanted(answer) else 0
            if row == in_a_row:
                return answer
            assert row or time.monotonic() < deadline, f"{service}{path} {request}: {answer}"
            if not row:
                time.sleep(0.05)

    def served(self, service: str, path: str = "/", *, version: str, **request: Any) -> Answer:
        """Expect a version's pod to answer with success."""
        success = 0 if request.get("port") == GRPC else 200

        def wanted(answer: Answer) -> bool:
            return answer.status == success and answer.pod == f"echo-{version}"

        return self.expect(service, path, wanted=wanted, **request)

    def status(self, service: str, path: str = "/", *, status: int, **request: Any) -> Answer:
        """Expect a status."""
        return self.expect(service, path, wanted=lambda answer: answer.status == status, **request)

    def shares(self, service: str, count: int, **request: Any) -> dict[str, float]:
        """Who answers how many of some requests, all of which must succeed; parts of one."""
        success = 0 if request.get("port") == GRPC else 200
        answers = self.ask(service, count=count, **request)
        assert [answer for answer in answers if answer.status != success] == []
        return {pod: number / count for pod, number in Counter(answer.pod for answer in answers).items()}

    def load(self, kind: str, service: str) -> Load:
        """Requests to a Service until they are stopped (``load.py``)."""
        port = HTTP if kind in ("keepalive", "short") else GRPC
        return Load(self.lab, kind, self.address(service), str(port), service)

    @contextmanager
    def replicas(self, number: int) -> Iterator[None]:
        """The producer's waypoint has this many replicas during the block."""

        def scale(wanted: int) -> None:
            self.store.patch_metadata(Gateway, PRODUCER, "waypoint", annotations={REPLICAS_ANNOTATION: str(wanted)})
            self.until(
                lambda: (
                    [pod.status.ready for pod in self.replicas_of(PRODUCER)] == [True] * wanted
                    and self.programmed(PRODUCER) is (wanted > 0)
                ),
                lambda: f"there are {len(self.replicas_of(PRODUCER))} replicas, not {wanted}",
            )

        scale(number)
        try:
            yield
        finally:
            scale(1)

    def replicas_of(self, namespace: str, name: str = "waypoint") -> list[Pod]:
        """The pods of a waypoint."""
        return [
            pod
            for pod in self.store.of_kind(Pod)
            if pod.metadata.namespace == namespace and pod.metadata.labels.get(GATEWAY_NAME_LABEL) == name
        ]

    def waypoints(self) -> dict[str, str]:
        """The addresses of all waypoints' pods, and whose they are: ``namespace/name``."""
        return {
            address: f"{pod.metadata.namespace}/{pod.metadata.labels[GATEWAY_NAME_LABEL]}"
            for pod in self.store.of_kind(Pod)
            if GATEWAY_NAME_LABEL in pod.metadata.labels
            for address in pod.status.addresses
        }

    def until(self, holds: Callable[[], bool], otherwise: Callable[[], str]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + _SECONDS
        while not holds():
            assert time.monotonic() < deadline, otherwise()
            time.sleep(0.05)

    def programmed(self, namespace: str, name: str = "waypoint") -> bool:
        """Whether a waypoint is ready."""
        try:
            status = self.store.get(Gateway, namespace, name).status
        except ObjectMissing:
            return False
        conditions = () if status is None else status.conditions
        return any(each.type == "Programmed" and each.status == "True" for each in conditions)

    def dump(self, node: str) -> dict[str, Any]:
        """What a node's ztunnel works from."""
        return trio.run(fetch, self.lab, node)

    def access_log(self, node: str) -> list[str]:
        """The access records of a node's ztunnel."""
        lines = Processes(self.lab.layout).log_file(ztunnel_name(node)).read_text(errors="replace").splitlines()
        return [line for line in lines if " access connection " in line]


@pytest.fixture(scope="session")
def mesh() -> Iterator[Mesh]:
    """The one lab of all tests here."""
    layout = LabLayout.named(f"tw{os.getpid():x}")
    lab = trio.run(bring_up, Wish(layout=layout, nodes=2, workers=1), lambda _: None)
    try:
        store = FolderStore(layout.cluster)
        text = (HERE / "base.yaml").read_text().replace("GRPC_ECHO", str(HERE / "grpc_echo.py"))
        objects, problems = decode_documents(text, "lab")
        assert problems == []
        for each in objects:
            store.apply(each)
        assert trio.run(readiness.wait_for_pods, lab, 60.0) == []
        made = Mesh(lab)
        try:
            made.until(
                lambda: made.programmed(PRODUCER) and made.programmed(CONSUMER), lambda: "a waypoint is not ready"
            )
            yield made
            for process in Processes(layout).statuses():
                log = Processes(layout).log_file(process.spec.name)
                assert process.running, f"{process.spec.name} has ended:\n{log.read_text(errors='replace')[-4000:]}"
        finally:
            for asker in made.askers.values():
                asker.close()
    finally:
        trio.run(take_down, lab, lambda _: None)

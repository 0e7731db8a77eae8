"""Guards of a waypoint in a lab: the processes as they run in a cluster, told by manifests and configuration files.

Two replicas on real nodes; authorizers (grpcio's server, and one of the standard library) in pods that are in the mesh,
reached through their tunnels; the store of shared limits, Debian's redis, in a pod that is not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ambimesh.demo.stage import MODE_LABEL, NAMESPACE, Stage
from ambimesh.lab import manifests, readiness
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.record import ProcessSettings
from ambimesh.lab.take_down import take_down
from ambimesh.lab.ztunnel_admin import fetch
from resources.folder_store import FolderStore
from resources.objects import Namespace, Pod, Service

pytestmark = pytest.mark.lab

SHIPPED = Path(manifests.__file__).parents[1] / "manifests" / "demo"
SETTINGS = ProcessSettings(
    operator={
        "authorizers": [
            {
                "name": f"{protocol}-judge",
                "service": f"demo/{protocol}-judge.demo.svc.cluster.local",
                "port": 9000,
                "protocol": protocol,
                "timeout_seconds": 2.0,
                "status_on_error": 503,
                **({"headers_to_upstream": ["x-judged"], "max_body_bytes": 1000} if protocol == "http" else {}),
            }
            for protocol in ("grpc", "http")
        ]
    },
    # A Service's name is not resolved in a lab, so its address is given, which the test chooses.
    waypoint={"rate_limit_store": {"host": "10.96.99.99", "timeout_seconds": 2.0}},
)
GRPC_JUDGE = """
import os, sys, time
from concurrent import futures
import grpc
from mesh.wire import external_authorization_pb2 as wire

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(
            judge, request_deserializer=wire.CheckRequest.FromString,
            response_serializer=wire.CheckResponse.SerializeToString)

def judge(request, context):
    response = wire.CheckResponse()
    http = request.attributes.request.http
    if http.path == "/hang":
        time.sleep(60)
    if http.headers.get("x-user") == "eve":
        response.status.code = 7
        response.denied_response.status.code = 402
        response.denied_response.body = request.attributes.source.principal
        return response
    option = response.ok_response.headers.add()
    option.header.key, option.header.value = "x-judged", http.path
    return response

server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((Handler(),))
server.add_insecure_port("0.0.0.0:9000")
server.start()
server.wait_for_termination()
"""
HTTP_JUDGE = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        evil = b"evil" in body or self.headers.get("authorization") == "evil"
        self.send_response(403 if evil else 200)
        self.send_header("x-judged", "http " + self.path)
        self.send_header("content-length", "0")
        self.end_headers()
    do_POST = do_GET

ThreadingHTTPServer(("0.0.0.0", 9000), Handler).serve_forever()
"""
WELL = """
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        status = 200
        if self.path == "/healthz":
            status = 503 if os.path.exists("/tmp/" + os.environ["SICK"]) else 200
        body = os.environ["SICK"].encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


def pod(name: str, node: str, command: list[str], **more: Any) -> dict[str, Any]:
    labels = {"app": more.pop("app", name)}
    namespace = more.pop("namespace", NAMESPACE)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": node,
            "serviceAccountName": name,
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "command": command, **more}],
        },
    }


def service(name: str, port: int, target: int, **spec: Any) -> dict[str, Any]:
    ports = [{"name": spec.pop("port_name", "http"), "port": port, "targetPort": target}]
    metadata = {"name": name, "namespace": spec.pop("namespace", NAMESPACE), "annotations": spec.pop("annotations", {})}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def custom(provider: str) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "asked", "namespace": NAMESPACE},
        "spec": {
            "targetRefs": [{"kind": "Service", "group": "", "name": "echo"}],
            "action": "CUSTOM",
            "provider": {"name": provider},
            "rules": [{"to": [{"operation": {"notPaths": ["/free"]}}]}],
        },
    }


class Scene:
    """The lab, and what tests do to it."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage = stage
        self.folder = folder

    def apply(self, *objects: dict[str, Any]) -> None:
        file = self.folder / "objects.json"
        file.write_text("\n---\n".join(json.dumps(each) for each in objects))
        file = file.rename(file.with_suffix(".yaml"))
        report = manifests.apply(self.stage.store, [file])
        assert not report.problems, report.problems

    async def get(self, url: str, *options: str, client: str = "client-a") -> tuple[int, str]:
        """Status and body; status 0 without an answer."""
        _, text = await self.stage.curl(client, url, "-w", "\n%{http_code}", "--max-time", "20", *options)
        body, _, status = text.rpartition("\n")
        return int(status or 0), body

    async def until(self, url: str, status: int, *options: str) -> str:
        """Ask until the answer has this status."""
        seen: list[tuple[int, str]] = []

        async def answered() -> bool:
            seen.append(await self.get(url, *options))
            return seen[-1][0] == status

        await self.stage.until(answered, 20, lambda: f"the last answers are {seen[-3:]}")
        return seen[-1][1]

    async def wait_for_pods(self) -> None:
        assert await readiness.wait_for_pods(self.stage.lab, 30.0) == []


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A lab with the shipped manifests, enrolled, behind a waypoint of two replicas."""
    layout = LabLayout.named(f"wg{os.getpid():x}")
    lab = trio.run(bring_up, Wish(layout=layout, settings=SETTINGS), lambda _: None)
    try:
        report = manifests.apply(FolderStore(layout.cluster), [SHIPPED])
        assert not report.problems
        made = Scene(Stage(lab), tmp_path_factory.mktemp("scene"))
        made.apply(
            pod("grpc-judge", "node2", [sys.executable, "-c", GRPC_JUDGE]),
            pod("http-judge", "node1", ["python3", "-c", HTTP_JUDGE]),
            pod("redis", "node1", REDIS, namespace="outside"),
            service("grpc-judge", 9000, 9000, port_name="grpc"),
            service("http-judge", 9000, 9000),
            service("redis", 6379, 6379, port_name="tcp", namespace="outside", clusterIP="10.96.99.99"),
        )
        trio.run(_behind_a_waypoint, made)
        yield made
        for log in Stage(lab).processes.log_file("operator").parent.glob("*"):
            text = log.read_text(errors="replace") if log.is_file() else ""
            assert "Traceback" not in text, f"{log}: {text[text.find('Traceback') - 500 :][:3000]}"
    finally:
        trio.run(take_down, lab, lambda _: None)


REDIS = [
    *("bash", "-c"),
    "exec -a redis-server redis-check-rdb --port 6379 --save '' --protected-mode no --dir /tmp --bind 0.0.0.0",
]


async def _behind_a_waypoint(scene: Scene) -> None:
    assert await readiness.wait_for_pods(scene.stage.lab, 60.0) == []
    await scene.stage.enrol()
    environment = {**os.environ, "AMBIMESH_LAB": scene.stage.lab.layout.name}
    command = [sys.executable, "-m", "ambimesh", "waypoint", "apply", "-n", NAMESPACE, "--replicas", "2", "--wait"]
    await trio.run_process(command, capture_stdout=True, env=environment)
    scene.stage.store.patch_metadata(Service, NAMESPACE, "echo", labels={"istio.io/use-waypoint": "waypoint"})

    async def passes() -> bool:
        report = await scene.stage.call("client-a", "http://echo/free")
        return "x-forwarded-for" in report["headers"]

    await scene.stage.until(passes, 20, lambda: "requests do not pass the waypoint")


async def test_authorizers_in_the_mesh_are_asked_through_their_tunnels(scene: Scene) -> None:
    scene.apply(custom("grpc-judge"))
    body = await scene.until("http://echo/some", 402, "-H", "x-user: eve")
    assert body == "spiffe://cluster.local/ns/demo/sa/client-a", "the authorizer is told who asks"
    status, text = await scene.get("http://echo/some?q=1", "-H", "x-user: ann")
    assert status == 200
    assert json.loads(text)["headers"]["x-judged"] == "/some?q=1"
    assert (await scene.get("http://echo/free", "-H", "x-user: eve"))[0] == 200
    status, _ = await scene.get("http://echo/hang")
    assert status == 503, "who does not answer in time is an error"
    connections = (await fetch(scene.stage.lab, "node2"))["connections"]
    questions = [each for each in connections if each["workload"] == "demo/grpc-judge"]
    assert {(each["direction"], each["protocol"], each["sourceIdentity"]) for each in questions} == {
        ("Inbound", "HBONE", "spiffe://cluster.local/ns/demo/sa/waypoint")
    }

    scene.apply(custom("http-judge"))
    await scene.until("http://echo/x", 403, "-H", "authorization: evil")
    status, text = await scene.get("http://echo/y", "-X", "POST", "-d", "good")
    assert (status, json.loads(text)["headers"]["x-judged"]) == (200, "http /y")
    assert (await scene.get("http://echo/y", "-X", "POST", "-d", "evil"))[0] == 403
    assert (await scene.get("http://echo/y", "-X", "POST", "-d", "x" * 1001))[0] == 413
    scene.stage.store.delete(Pod, NAMESPACE, "http-judge")
    await scene.until("http://echo/y", 503)
    manifests.delete(scene.stage.store, [scene.folder / "objects.yaml"])
    await scene.until("http://echo/y", 200)


async def test_two_replicas_share_a_limit(scene: Scene) -> None:
    scene.apply(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {
                "name": "limited",
                "namespace": NAMESPACE,
                "annotations": {
                    "ambimesh.dev/rate-limits": "- {name: ours, tokens: 20, interval: 1h, shared: true, rules: [few]}"
                },
            },
            "spec": {
                "parentRefs": [{"group": "", "kind": "Service", "name": "echo", "port": 80}],
                "rules": [
                    {
                        "name": "few",
                        "matches": [{"path": {"value": "/few"}}],
                        "backendRefs": [{"name": "echo", "port": 80}],
                    },
                    {"name": "many", "backendRefs": [{"name": "echo", "port": 80}]},
                ],
            },
        }
    )
    statuses: list[int] = []

    async def ask(client: str) -> None:
        statuses.extend([(await scene.get("http://echo/few", client=client))[0] for _ in range(40)])

    await scene.until("http://echo/few", 200)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "client-a")
        nursery.start_soon(ask, "client-b")
    assert set(statuses) == {200, 429}
    told = await _answers(scene)
    # A request or two may have passed before the first replica had its connection to the store.
    assert sum(told.values()) >= 80
    assert told["admitted"] == 20
    assert len(await _replicas(scene)) == 2
    assert min([sum(each.values()) for each in await _replicas(scene)]) > 0, "both replicas have asked"
    assert (await scene.get("http://echo/any"))[0] == 200


async def _replicas(scene: Scene) -> list[dict[str, float]]:
    """What each replica was told by the store."""
    found = []
    for one in scene.stage.store.of_kind(Pod):
        if one.metadata.labels.get("gateway.networking.k8s.io/gateway-name") == "waypoint":
            _, text = await scene.stage.execute(one.metadata.name, "curl", "-s", "http://127.0.0.1:15020/metrics")
            lines = [line for line in text.splitlines() if line.startswith("ambimesh_waypoint_shared_limit_answers_t")]
            found.append({line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines})
    return found


async def _answers(scene: Scene) -> dict[str, float]:
    told: dict[str, float] = {}
    for each in await _replicas(scene):
        for answer, count in each.items():
            told[answer] = told.get(answer, 0) + count
    return told


async def test_a_sick_endpoint_is_left_out_until_it_is_well(scene: Scene) -> None:
    sick = [f"sick-{os.getpid()}-{number}" for number in (1, 2)]
    check = "{path: /healthz, interval: 200ms, timeout: 1s, unhealthyThreshold: 2}"
    scene.apply(
        *(
            pod(
                f"well-{number}", f"node{number}", ["python3", "-c", WELL], app="well",
                env=[{"name": "SICK", "value": sick[number - 1]}],
            )
            for number in (1, 2)
        ),
        service("well", 80, 8080, annotations={"ambimesh.dev/health-check": check}),
    )  # fmt: skip
    scene.stage.store.patch_metadata(Service, NAMESPACE, "well", labels={"istio.io/use-waypoint": "waypoint"})
    await scene.wait_for_pods()
    marker = Path("/tmp") / sick[1]

    async def answering(*names: str) -> None:
        seen: list[set[str]] = []

        async def holds() -> bool:
            answers = [await scene.get("http://well/") for _ in range(20)]
            seen.append({body for status, body in answers if status == 200})
            return seen[-1] == set(names) and all(status == 200 for status, _ in answers)

        await scene.stage.until(holds, 20, lambda: f"{seen[-3:]} and not {names} answer")

    try:
        await answering(*sick)
        marker.touch()
        await answering(sick[0])
        marker.unlink()
        await answering(*sick)
    finally:
        marker.unlink(missing_ok=True)


def test_the_namespace_is_enrolled(scene: Scene) -> None:
    assert scene.stage.store.get(Namespace, "", NAMESPACE).metadata.labels[MODE_LABEL] == "ambient"

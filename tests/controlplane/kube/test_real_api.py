"""The operator on a real API server, with the rights of ``permissions`` and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from controlplane.kube import lease_driver
from controlplane.kube.node_taints import AGENT_LABEL
from controlplane.kube.permissions import TRUST_BUNDLE
from controlplane.testing.replica import NAMESPACE, Replica
from mesh.errors import ConnectFailed
from mesh.grpc.driver import GrpcError, StatusCode
from mesh.identity import SpiffeId
from resources.kube.client_driver import ApiClient
from resources.kube.credentials_driver import ApiSettings
from resources.kube.kinds import API_KINDS, ApiKind
from resources.kube.source_driver import ApiSource
from resources.node import NOT_READY_TAINT
from resources.objects import Node, Pod, TLSRoute
from tests.controlplane.kube.real_plane import apply, eventually, pod_token, replica_of, run_pod
from tests.e2e.kit.control_plane import ControlPlane, KubectlFailed
from tests.e2e.kit.definitions import definition

pytestmark = pytest.mark.kubernetes


async def test_everything_it_does_is_allowed_and_does_what_it_should(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_driver, "RETRY_SECONDS", 0.2)
    proxy = run_pod(plane, NAMESPACE, "ztunnel-1", "ztunnel", "node1", "10.0.0.9")
    web = run_pod(plane, "shop", "web", "web", "node1", "10.0.0.1")
    policy = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "by-method", "namespace": "shop"},
        "spec": {"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]},
    }
    gateway = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "ours"}}
    apply(plane, policy, {**gateway, "spec": {"controllerName": "ambimesh.dev/mesh-controller"}})
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"istio.io/use-waypoint": "absent"}},
        "spec": {"ports": [{"port": 80}]},
    }
    apply(plane, service)
    one, other = replica_of(plane, tmp_path, "one"), replica_of(plane, tmp_path, "other")

    def condition_of(what: str, name: str, kind: str) -> str:
        path = f'jsonpath={{.status.conditions[?(@.type=="{kind}")].reason}}'
        return plane.kubectl("get", what, name, "-n", "shop", "-o", path)

    def events(where: str) -> str:
        path = "{range .items[*]}{.type} {.reason} {.regarding.name}{'\\n'}{end}"
        return plane.kubectl("get", "events.events.k8s.io", "-n", where, "-o", f"jsonpath={path}")

    def published(where: str) -> bool:
        return TRUST_BUNDLE in plane.kubectl("get", "configmaps", "-n", where, "-o", "name")

    identity = SpiffeId("cluster.local", "shop", "web")
    async with one.running(), other.running():
        await eventually(lambda: published(NAMESPACE) and published("shop"))
        token = await trio.to_thread.run_sync(pod_token, plane, NAMESPACE, "ztunnel", "ztunnel-1", proxy)
        first = await one.certificate(identity, token)
        assert first.cert_chain[-1] == (await other.certificate(identity, token)).cert_chain[-1]
        async with one.reading(token) as known:
            await eventually(lambda: "Kubernetes//Pod/shop/web" in known)

        # Another pod's token, one for somebody else, and one of a pod that is gone.
        theirs = await trio.to_thread.run_sync(pod_token, plane, "shop", "web", "web", web)
        with pytest.raises(GrpcError, match="shop/web may not act for") as caught:
            await one.certificate(SpiffeId("cluster.local", "shop", "other"), theirs)
        assert caught.value.status is StatusCode.PERMISSION_DENIED
        foreign = await trio.to_thread.run_sync(pod_token, plane, NAMESPACE, "ztunnel", "ztunnel-1", proxy, "vault")
        with pytest.raises(GrpcError, match="audience") as caught:
            await one.certificate(identity, foreign)
        assert caught.value.status is StatusCode.UNAUTHENTICATED

        # What became of objects is said in their status.
        accepted = "ambimesh.dev/Accepted"
        await eventually(lambda: condition_of("authorizationpolicy", "by-method", accepted) == "UnsupportedValue")
        await eventually(lambda: condition_of("service", "web", "istio.io/WaypointBound") == "WaypointIsNotReady")
        await eventually(lambda: condition_of("gatewayclass", "ours", "Accepted") == "Accepted")
        # ... and as events, which the API server checks strictly.
        await eventually(lambda: "Warning UnsupportedValue by-method" in events("shop"))
        await eventually(lambda: "Warning CertificateRefused web" in events("shop"))
        # The condition goes with its reason.
        await trio.to_thread.run_sync(
            plane.kubectl, "label", "service", "web", "-n", "shop", "istio.io/use-waypoint-"
        )
        await eventually(lambda: condition_of("service", "web", "istio.io/WaypointBound") == "")

        await trio.to_thread.run_sync(
            lambda: plane.kubectl("delete", "pod", "ztunnel-1", "-n", NAMESPACE, "--grace-period=0", "--force")
        )
        late = "UNAUTHENTICATED"
        await eventually(lambda: _refused(other, identity, token) == late, 90)


def _refused(replica: Replica, identity: SpiffeId, token: str) -> str:
    async def ask() -> str:
        try:
            await replica.certificate(identity, token)
        except GrpcError as error:
            return error.status.name
        return ""

    return trio.from_thread.run(ask)


async def test_a_gateway_becomes_a_waypoint(plane: ControlPlane, tmp_path: Path) -> None:
    waypoint = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "waypoint", "namespace": "shop"},
        "spec": {
            "gatewayClassName": "ambimesh-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
    }

    def get(what: str, path: str) -> str:
        try:
            return plane.kubectl("get", what, "waypoint", "-n", "shop", "-o", f"jsonpath={{{path}}}")
        except KubectlFailed:
            return ""

    def programmed() -> str:
        return get("gateway", '.status.conditions[?(@.type=="Programmed")].status')

    await trio.to_thread.run_sync(apply, plane, waypoint)
    replica = replica_of(plane, tmp_path, "waypoints")
    async with replica.running():
        await eventually(lambda: get("deployment", ".spec.template.spec.serviceAccountName") == "waypoint")
        await eventually(lambda: get("service", ".spec.selector").find("waypoint") > 0)
        await eventually(lambda: get("serviceaccount", ".metadata.name") == "waypoint")
        await eventually(lambda: programmed() == "False")
        # A replica is ready, as the endpoint slice controller says.
        ready = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "waypoint-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "waypoint"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.20"], "conditions": {"ready": True}}],
            "ports": [{"port": 15008, "name": "mesh"}],
        }  # fmt: skip
        await trio.to_thread.run_sync(apply, plane, ready)
        await eventually(lambda: programmed() == "True")
        address = await trio.to_thread.run_sync(get, "service", ".spec.clusterIP")
        await eventually(lambda: get("gateway", ".status.addresses[0].value") == address)
        # What somebody changes of it is put back.
        await trio.to_thread.run_sync(
            lambda: plane.kubectl("delete", "deployment", "waypoint", "-n", "shop", "--wait=false")
        )
        await eventually(lambda: get("deployment", ".metadata.name") == "waypoint")


async def test_a_node_takes_pods_once_its_agent_is_ready(plane: ControlPlane, tmp_path: Path) -> None:
    """Other taints stay, and a pod that is no agent's frees nobody."""
    taints = [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]
    taints.append({"key": NOT_READY_TAINT, "effect": "NoSchedule"})
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "joining"}, "spec": {"taints": taints}}
    await trio.to_thread.run_sync(apply, plane, node)

    def keys() -> set[str]:
        """With another one of the API server's own: nobody has called the node ready."""
        return set(plane.kubectl("get", "node", "joining", "-o", "jsonpath={.spec.taints[*].key}").split())

    replica = replica_of(plane, tmp_path, "taints")
    async with replica.running():
        await trio.to_thread.run_sync(run_pod, plane, NAMESPACE, "agent-1", "agent", "joining", "10.0.0.30")
        await trio.sleep(0.5)
        assert {"dedicated", NOT_READY_TAINT} <= await trio.to_thread.run_sync(keys)
        label = "=".join(AGENT_LABEL)
        await trio.to_thread.run_sync(lambda: plane.kubectl("label", "pod", "agent-1", "-n", NAMESPACE, label))
        await eventually(lambda: NOT_READY_TAINT not in keys())
        assert "dedicated" in await trio.to_thread.run_sync(keys)


async def test_an_api_server_that_goes_and_comes_again(plane: ControlPlane, tmp_path: Path) -> None:
    client = ApiClient(ApiSettings(kubeconfig=plane.kubeconfig))
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}
    await trio.to_thread.run_sync(apply, plane, node)
    async with ApiSource(client).open() as source:
        with trio.fail_after(60):
            first = await source.wait_change()
            assert first.find(Node, "", "n1") is not None
            await trio.to_thread.run_sync(plane.stop_api_server)
            while not any("cannot be followed" in str(problem) for problem in source.problems):
                await source.wait_change()
            assert source.objects.find(Node, "", "n1") is not None
            with pytest.raises(ConnectFailed):
                await client.get("/version")
            # In this thread: it is killed with the thread that starts it, and the pool lets idle ones go.
            plane.start_api_server()
            await trio.to_thread.run_sync(run_pod, plane, "shop", "after", "after", "node1", "10.0.0.7")
            while source.objects.find(Pod, "shop", "after") is None or source.problems:
                await source.wait_change()
    await client.close()


async def test_definitions_that_come_later_and_go(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.kube.list_watch_machine.ABSENT_SECONDS", 0.5)
    client = ApiClient(ApiSettings(kubeconfig=plane.kubeconfig))
    known, foreign = API_KINDS["TLSRoute"], API_KINDS["TCPRoute"]

    def install(kind: ApiKind, version: str) -> None:
        body = definition(kind)
        body["spec"]["versions"][0]["name"] = version
        apply(plane, body)
        plane.kubectl("wait", "--for=condition=Established", f"crd/{kind.plural}.{kind.group}")

    async with ApiSource(client, [known, foreign]).open() as source:
        with trio.fail_after(90):
            assert len(await source.wait_change()) == 0
            assert not source.problems
            # An older version than the preferred one.
            await trio.to_thread.run_sync(install, known, "v1alpha2")
            metadata = {"name": "r", "namespace": "shop"}
            route = {"apiVersion": f"{known.group}/v1alpha2", "kind": known.name, "metadata": metadata}
            spec = {"rules": [{"backendRefs": [{"name": "web", "port": 80}]}]}
            await trio.to_thread.run_sync(apply, plane, {**route, "spec": spec})
            while source.objects.find(TLSRoute, "shop", "r") is None:
                await source.wait_change()
            await trio.to_thread.run_sync(install, foreign, "v7")
            while not any("in the versions v7 only" in str(problem) for problem in source.problems):
                await source.wait_change()
            name = f"{known.plural}.{known.group}"
            await trio.to_thread.run_sync(plane.kubectl, "delete", "crd", name, "--wait=false")
            while len(source.objects):
                await source.wait_change()
    await client.close()



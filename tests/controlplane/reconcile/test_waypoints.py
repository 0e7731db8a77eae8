from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from controlplane.reconcile.cluster_pods import ClusterPods
from controlplane.reconcile.difference import same_owner, says
from controlplane.reconcile.driver import FolderWriter, Reconciler, StatusWriter
from controlplane.reconcile.status import gateway_statuses
from controlplane.reconcile.waypoints import (
    DRAIN_ANNOTATION,
    REPLICAS_ANNOTATION,
    RESTARTED_ANNOTATION,
    WaypointSettings,
    parts_of,
    replicas_of,
    scaling_of,
    unwanted,
    wanted,
)
from controlplane.translate.settings import MeshSettings
from controlplane.translate.translator import Translator
from resources.base import ObjectMeta
from resources.decode import decode_documents
from resources.encode import to_yaml
from resources.folder_store import FolderStore
from resources.gateway import GatewaySpec, ParentReference
from resources.network import Endpoint, EndpointConditions, ServicePort, ServiceSpec
from resources.object_set import ObjectSet
from resources.objects import (
    Deployment,
    EndpointSlice,
    Gateway,
    HorizontalPodAutoscaler,
    HTTPRoute,
    PodDisruptionBudget,
    Service,
    ServiceAccount,
)
from resources.routes import RouteParentStatus, RouteStatus

SETTINGS = WaypointSettings(command=("waypoint", "--config", "x"), environment={"A": "b"})


def gateway(name: str = "waypoint", kind: str = "ambimesh-waypoint", **metadata: object) -> Gateway:
    meta = ObjectMeta(name=name, namespace="demo", uid=f"uid-{name}", **metadata)  # type: ignore[arg-type]
    return Gateway(metadata=meta, spec=GatewaySpec(gateway_class_name=kind))


def ready_slice(*ready: bool) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name="s", namespace="demo", labels={"kubernetes.io/service-name": "waypoint"}),
        address_type="IPv4",
        endpoints=tuple(Endpoint(addresses=("10.0.0.1",), conditions=EndpointConditions(ready=each)) for each in ready),
    )


def test_a_gateway_becomes_an_account_a_service_and_a_deployment_of_its_name() -> None:
    parts = parts_of(gateway(), SETTINGS)
    assert [type(part) for part in parts] == [ServiceAccount, Service, Deployment]
    assert {part.metadata.name for part in parts} == {"waypoint"}
    assert {part.metadata.owner_references[0].uid for part in parts} == {"uid-waypoint"}
    deployment = parts[2]
    template = deployment.spec.template
    assert template.spec.account == "waypoint"
    assert template.metadata.labels["istio.io/dataplane-mode"] == "none"
    assert template.metadata.labels["networking.istio.io/tunnel"] == "http"
    assert deployment.spec.selector.match_labels.items() <= template.metadata.labels.items()
    variables = {entry.name: entry.value or entry.value_from for entry in template.spec.containers[0].env}
    assert variables["GATEWAY_NAME"] == "waypoint"
    assert variables["A"] == "b"
    assert variables["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert {port.port for port in parts[1].spec.ports} == {15008, 15021}


def test_a_restart_changes_the_template_and_nothing_else() -> None:
    before, after = (
        parts_of(gateway(annotations=annotations), SETTINGS)
        for annotations in ({"other": "x"}, {"other": "x", RESTARTED_ANNOTATION: "now"})
    )
    assert before[:2] == after[:2]
    assert before[2].spec.template.metadata.annotations == {}
    assert after[2].spec.template.metadata.annotations == {RESTARTED_ANNOTATION: "now"}


def test_what_is_made_is_what_the_reader_of_manifests_takes() -> None:
    for part in parts_of(gateway(), SETTINGS):
        decoded, problems = decode_documents(to_yaml(part), "made")
        assert problems == []
        assert decoded == [part]


CLUSTER = WaypointSettings(
    command=("waypoint",), image="i:1", cluster=ClusterPods(max_replicas=4, resources={"limits": {"memory": "1Gi"}})
)


def test_in_a_cluster_replicas_are_scaled_and_never_all_evicted() -> None:
    gateways = ObjectSet([gateway(annotations={REPLICAS_ANNOTATION: "2"})])
    found = {type(value).__name__: value for value in wanted(gateways, CLUSTER)}
    assert set(found) == {
        "ServiceAccount", "Service", "Deployment", "PodDisruptionBudget", "HorizontalPodAutoscaler",
    }  # fmt: skip
    autoscaler, deployment = found["HorizontalPodAutoscaler"], found["Deployment"]
    assert isinstance(autoscaler, HorizontalPodAutoscaler)
    assert isinstance(deployment, Deployment)
    assert (autoscaler.spec.min_replicas, autoscaler.spec.max_replicas) == (2, 4)
    # The autoscaler has the number; would we write it, each would undo the other's work.
    assert "replicas" not in msgspec.to_builtins(deployment)["spec"]
    assert {value.metadata.owner_references[0].uid for value in found.values()} == {"uid-waypoint"}
    for value in found.values():
        decoded, problems = decode_documents(to_yaml(value), "made")
        assert (decoded, problems) == ([value], [])


def test_a_gateway_may_ask_for_more_than_the_autoscaler_takes_and_there_may_be_none() -> None:
    many = gateway(annotations={REPLICAS_ANNOTATION: "9"})
    _, autoscaler = scaling_of(many, CLUSTER)
    assert isinstance(autoscaler, HorizontalPodAutoscaler)
    assert (autoscaler.spec.min_replicas, autoscaler.spec.max_replicas) == (9, 9)
    none = WaypointSettings(command=(), cluster=ClusterPods())
    assert [type(value) for value in scaling_of(many, none)] == [PodDisruptionBudget]
    assert parts_of(many, none)[2].spec.replicas == 9
    assert scaling_of(many, SETTINGS) == ()


def test_what_is_not_asked_for_any_more_is_unwanted_and_nothing_else_is() -> None:
    ours = gateway()
    made = list(wanted(ObjectSet([ours]), CLUSTER))
    strangers = Deployment(metadata=ObjectMeta(name="x", namespace="demo"), spec=parts_of(ours, SETTINGS)[2].spec)
    there = [*made, strangers]
    assert list(unwanted(ObjectSet([ours, *there]), CLUSTER)) == []
    fixed = WaypointSettings(command=(), cluster=ClusterPods())
    assert [type(one) for one in unwanted(ObjectSet([ours, *there]), fixed)] == [HorizontalPodAutoscaler]
    moved = gateway(kind="nginx")
    assert {one.key for one in unwanted(ObjectSet([moved, *there]), CLUSTER)} == {one.key for one in made}
    # Of a Gateway that is gone it is the cluster that collects.
    assert list(unwanted(ObjectSet(there), CLUSTER)) == []


def test_gateways_of_other_classes_are_not_ours() -> None:
    assert list(wanted(ObjectSet([gateway(kind="nginx")]), SETTINGS)) == []
    assert gateway_statuses(ObjectSet([gateway(kind="nginx")]), SETTINGS, "now") == []


@pytest.mark.parametrize(("text", "replicas"), [("", 1), ("3", 3), ("many", 1), ("-1", 1), ("99999", 64), ("0", 0)])
def test_replicas(text: str, replicas: int) -> None:
    assert replicas_of(gateway(annotations={REPLICAS_ANNOTATION: text})) == replicas


@pytest.mark.parametrize(
    ("text", "drain", "grace"),
    [("600", "600", 605), ("0", "0", 5), ("999999", "86400", 86405), ("long", "25", 30), ("-1", "25", 30)],
)
def test_a_gateway_says_how_long_its_replicas_may_drain(text: str, drain: str, grace: int) -> None:
    settings = WaypointSettings(command=("waypoint",), environment={"DRAIN_SECONDS": "25"})
    deployment = parts_of(gateway(annotations={DRAIN_ANNOTATION: text}), settings)[2]
    pod = deployment.spec.template.spec
    assert pod.termination_grace_period_seconds == grace
    assert [one.value for one in pod.containers[0].env if one.name == "DRAIN_SECONDS"] == [drain]


def test_an_object_is_right_when_everything_wished_stands_in_it() -> None:
    _, service, _ = parts_of(gateway(), SETTINGS)
    defaulted = msgspec.structs.replace(
        service, spec=msgspec.structs.replace(service.spec, cluster_ip="10.96.0.9", type="ClusterIP")
    )
    assert says(defaulted, service)
    changed = msgspec.structs.replace(service, spec=ServiceSpec(ports=(ServicePort(port=1),)))
    assert not says(changed, service)
    # What an API server adds to an entry of a list, too.
    ports = tuple(msgspec.structs.replace(port, target_port=port.port) for port in service.spec.ports)
    added = msgspec.structs.replace(service, spec=msgspec.structs.replace(service.spec, ports=ports))
    assert says(added, service)
    assert not says(service, added)
    assert same_owner(defaulted, service)
    assert not same_owner(parts_of(gateway("other"), SETTINGS)[1], service)


def test_a_status_follows_the_replicas_and_keeps_the_time_of_what_has_not_changed() -> None:
    ours = gateway()
    service = Service(metadata=ObjectMeta(name="waypoint", namespace="demo"), spec=ServiceSpec(cluster_ip="10.96.0.9"))
    ((_, pending),) = gateway_statuses(ObjectSet([ours, service, ready_slice(False)]), SETTINGS, "t1")
    assert pending.addresses == ()
    assert [(each.type, each.status) for each in pending.conditions] == [("Accepted", "True"), ("Programmed", "False")]
    ours = msgspec.structs.replace(ours, status=pending)
    ((_, up),) = gateway_statuses(ObjectSet([ours, service, ready_slice(True, False)]), SETTINGS, "t2")
    assert [address.value for address in up.addresses] == ["10.96.0.9"]
    assert [each.last_transition_time for each in up.conditions] == ["t1", "t2"]
    ours = msgspec.structs.replace(ours, status=up)
    assert gateway_statuses(ObjectSet([ours, service, ready_slice(True)]), SETTINGS, "t3") == []


async def test_what_is_missing_is_written_once_and_repaired(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    ours = store.apply(gateway())
    reconciler = Reconciler(FolderWriter(store), SETTINGS)

    def objects() -> ObjectSet:
        kinds = (Gateway, ServiceAccount, Service, Deployment)
        return ObjectSet([value for kind in kinds for value in store.of_kind(kind)])

    await reconciler.reconcile(objects())
    made = objects()
    assert len(made) == 4
    status = store.get(Gateway, "demo", "waypoint").status
    assert status is not None
    assert status.conditions[0].type == "Accepted"
    before = {key: value.metadata.resource_version for key, value in objects().items()}
    await reconciler.reconcile(objects())
    assert {key: value.metadata.resource_version for key, value in objects().items()} == before
    store.delete(Service, "demo", "waypoint")
    await reconciler.reconcile(objects())
    assert store.get(Service, "demo", "waypoint").metadata.owner_references[0].uid == ours.metadata.uid


async def test_an_object_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.apply(gateway())
    theirs = store.apply(
        Service(metadata=ObjectMeta(name="waypoint", namespace="demo"), spec=ServiceSpec(ports=(ServicePort(port=5),)))
    )
    objects = ObjectSet([*store.of_kind(Gateway), *store.of_kind(Service)])
    await Reconciler(FolderWriter(store), SETTINGS).reconcile(objects)
    assert store.get(Service, "demo", "waypoint") == theirs
    assert store.get(Deployment, "demo", "waypoint").spec.replicas == 1


ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: demo}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: absent, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: demo, labels: {istio.io/use-waypoint: waypoint}}
spec: {ports: [{port: 80, name: http}]}
"""


async def test_what_became_of_routes_stands_in_the_folder_and_is_written_once(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    values, problems = decode_documents(ROUTE, "test")
    assert problems == []
    for value in (gateway(), *values):
        store.apply(value)
    translator = Translator(MeshSettings())
    reconciler = Reconciler(FolderWriter(store), SETTINGS, StatusWriter(store, lambda: translator.statuses))

    async def settle() -> dict[str, str]:
        kinds = (Gateway, ServiceAccount, Service, Deployment, HTTPRoute)
        objects = ObjectSet([value for kind in kinds for value in store.of_kind(kind)])
        translator.update(objects)
        await reconciler.reconcile(objects)
        return {str(key): value.metadata.resource_version for key, value in objects.items()}

    def told() -> list[tuple[str, str, str]]:
        status = store.get(HTTPRoute, "demo", "r").status
        assert status is not None
        return [(one.type, one.status, one.reason) for parent in status.parents for one in parent.conditions]

    await settle()
    assert told() == [("Accepted", "True", "Accepted"), ("ResolvedRefs", "False", "BackendNotFound")]
    await settle()
    before = await settle()
    assert await settle() == before, "nothing is written where nothing is new"
    bound = store.get(Service, "demo", "web").status
    assert bound is not None
    assert [one.type for one in bound.conditions] == ["istio.io/WaypointBound"]
    [mended, _], _ = decode_documents(ROUTE.replace("absent", "web"), "test")
    store.apply(mended)
    await settle()
    assert [status for _, status, _ in told()] == ["True", "True"]


async def test_a_status_that_has_changed_meanwhile_is_left(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    [seen, _], _ = decode_documents(ROUTE, "test")
    seen = store.apply(seen)
    assert isinstance(seen, HTTPRoute)
    other = RouteParentStatus(parent_ref=ParentReference(name="x"), controller_name="y")
    theirs = msgspec.structs.replace(seen, status=RouteStatus(parents=(other,)))
    store.replace(theirs)
    writer = StatusWriter(store, dict)
    writer.write(msgspec.structs.replace(seen, status=RouteStatus()), seen)
    assert store.get(HTTPRoute, "demo", "r").status == theirs.status
    store.delete(HTTPRoute, "demo", "r")
    writer.write(seen, seen)

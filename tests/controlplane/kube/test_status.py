from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from controlplane.kube.status_body import gateway_status_body, status_body
from controlplane.kube.status_wishes import ACCEPTED, broken_route_status, wished_status
from controlplane.kube.status_writer_driver import StatusWriter
from controlplane.kube.write_queue import BURST, RATE, WriteQueue
from controlplane.kube.writer_driver import ApiWriter
from controlplane.testing.routes import objects_of
from controlplane.translate.finding import Condition, Finding
from controlplane.translate.settings import MeshSettings
from controlplane.translate.status import CONTROLLER_NAME, NO_STATUS, ObjectStatus, ParentStatus, StatusCondition
from controlplane.translate.translator import Translator
from resources.base import Condition as ObjectCondition
from resources.base import ObjectMeta
from resources.gateway import GatewaySpec, GatewayStatus, GatewayStatusAddress, ParentReference
from resources.kube.client_driver import ApiClient
from resources.kube.source_driver import ApiSource
from resources.objects import Gateway, ObjectKey, ServiceAccount
from resources.problem import Problem
from resources.testing.api_server import ApiServer

POLICY = """
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: x, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: web}]
  validation: {hostname: a.example, wellKnownCACertificates: System}
"""
NOW, BEFORE = "2026-11-26T00:00:00Z", "2026-01-01T00:00:00Z"
POLICIES = "security.istio.io/authorizationpolicies"
BOUND = StatusCondition("istio.io/WaypointBound", True, "WaypointAccepted")


def found(kind: str, status: dict[str, Any] | None = None) -> dict[str, Any]:
    metadata = {"name": "x", "namespace": "n", "generation": 3, "resourceVersion": "7"}
    return {"apiVersion": "v", "kind": kind, "metadata": metadata, "status": status or {}}


def condition(**fields: Any) -> dict[str, Any]:
    return {"type": "t", "status": "True", "reason": "r", "message": "", "lastTransitionTime": BEFORE, **fields}


def test_conditions_of_a_service_are_merged_by_the_api_so_ours_alone_are_sent() -> None:
    theirs = condition(type="LoadBalancerReady")
    body = status_body(found("Service", {"conditions": [theirs]}), "Service", ObjectStatus(conditions=(BOUND,)), NOW)
    assert body is not None
    assert [one["type"] for one in body["status"]["conditions"]] == ["istio.io/WaypointBound"]
    assert body["status"]["conditions"][0]["observedGeneration"] == 3
    assert "resourceVersion" not in body["metadata"]
    # ... and are taken away by not being sent.
    ours = condition(type="istio.io/WaypointBound")
    gone = status_body(found("Service", {"conditions": [ours]}), "Service", NO_STATUS, NOW)
    assert gone is not None
    assert gone["status"]["conditions"] == []


def test_conditions_of_istios_kinds_are_sent_with_others_and_the_version_that_was_read() -> None:
    theirs = condition(type="Reconciled")
    wished = ObjectStatus(conditions=(StatusCondition(ACCEPTED, True, "Accepted"),))
    body = status_body(found("Telemetry", {"conditions": [theirs]}), "Telemetry", wished, NOW)
    assert body is not None
    assert body["metadata"]["resourceVersion"] == "7"
    assert [one["type"] for one in body["status"]["conditions"]] == ["Reconciled", ACCEPTED]


def test_a_route_keeps_the_parents_of_other_controllers() -> None:
    theirs = {"parentRef": {"name": "gw"}, "controllerName": "other/one", "conditions": [condition()]}
    stale = {"parentRef": {"name": "old"}, "controllerName": CONTROLLER_NAME, "conditions": []}
    accepted = (StatusCondition("Accepted", True, "A"),)
    parent = ParentStatus(ParentReference(name="web", kind="Service", group=""), accepted)
    wished = ObjectStatus(parents=(parent,))
    body = status_body(found("HTTPRoute", {"parents": [theirs, stale]}), "HTTPRoute", wished, NOW)
    assert body is not None
    parents = body["status"]["parents"]
    assert parents[0] == theirs
    assert [one["parentRef"]["name"] for one in parents] == ["gw", "web"]
    assert status_body(found("HTTPRoute", body["status"]), "HTTPRoute", wished, "later") is None


def test_a_policy_keeps_the_ancestors_of_other_controllers() -> None:
    kind = "BackendTLSPolicy"
    theirs = {"ancestorRef": {"name": "gw"}, "controllerName": "other/one", "conditions": [condition()]}
    stale = {"ancestorRef": {"name": "old"}, "controllerName": CONTROLLER_NAME, "conditions": []}
    same = {"ancestorRef": {"group": "", "kind": "Service", "name": "web"}, "controllerName": CONTROLLER_NAME}
    ours = {**same, "conditions": [condition(type="Accepted")]}
    ancestor = ParentStatus(
        ParentReference(name="web", kind="Service", group=""), (StatusCondition("Accepted", True, "A"),)
    )
    wished = ObjectStatus(parents=(ancestor,))
    body = status_body(found(kind, {"ancestors": [theirs, stale, ours]}), kind, wished, NOW)
    assert body is not None
    ancestors = body["status"]["ancestors"]
    assert ancestors[0] == theirs
    assert [one["ancestorRef"]["name"] for one in ancestors] == ["gw", "web"]
    assert ancestors[1]["conditions"][0]["lastTransitionTime"] == BEFORE
    assert status_body(found(kind, body["status"]), kind, wished, "later") is None
    value = objects_of(POLICY)[ObjectKey(kind, "shop", "x")]
    assert wished_status(value.key, value, (wished, ()), None) == wished


_STATUS = st.builds(
    ObjectStatus,
    conditions=st.lists(
        st.builds(StatusCondition, st.sampled_from([BOUND.type, ACCEPTED]), st.booleans(), st.sampled_from("ab")),
        unique_by=lambda one: one.type, max_size=2,
    ).map(tuple),
)  # fmt: skip


@given(_STATUS, _STATUS, st.sampled_from(["Telemetry", "AuthorizationPolicy"]))
def test_what_was_written_is_not_written_again_and_a_status_keeps_its_time(
    first: ObjectStatus, second: ObjectStatus, kind: str
) -> None:
    before = status_body(found(kind), kind, first, BEFORE)
    status = before["status"] if before is not None else {}
    assert status_body(found(kind, status), kind, first, NOW) is None
    after = status_body(found(kind, status), kind, second, NOW)
    if after is not None:
        was = {one["type"]: one for one in status.get("conditions", ())}
        for one in after["status"]["conditions"]:
            same = one["type"] in was and was[one["type"]]["status"] == one["status"]
            assert one["lastTransitionTime"] == (BEFORE if same else NOW)


KEY = ObjectKey("AuthorizationPolicy", "n", "x")


@pytest.mark.parametrize(
    ("findings", "problem", "status", "reason", "text"),
    [
        ([], None, True, "Accepted", ""),
        ([(Condition.UNSUPPORTED_VALUE, "rules[0].to.methods")], None, False, "UnsupportedValue", "methods"),
        ([(Condition.NOT_APPLIED, "nobody")], None, False, "NotApplied", "nobody"),
        ([(Condition.NOT_APPLIED, "istio.io/WaypointBound: x")], None, True, "Accepted", ""),
        ([], "unknown field", False, "Invalid", "unknown field, at $.spec.rools; correct it; its last good"),
    ],
)
def test_accepted_or_why_not(
    findings: list[tuple[Condition, str]], problem: str | None, status: bool, reason: str, text: str
) -> None:
    said = NO_STATUS, tuple(Finding(KEY, one, message) for one, message in findings)
    told = Problem(place="p", message=problem, field="$.spec.rools", remedy="correct it", key=KEY) if problem else None
    wished = wished_status(KEY, None, said, told)
    assert wished is not None
    [one] = wished.conditions
    assert (one.type, one.status, one.reason) == (ACCEPTED, status, reason)
    assert text in one.message


def test_a_route_that_cannot_be_read_is_told_at_its_parents_of_ours() -> None:
    problem = Problem(place="p", message="unknown field", field="$.spec.rools")
    references = [
        {"name": "web", "kind": "Service", "group": ""},
        {"name": "ours"},
        {"name": "others", "namespace": "m"},
        {"nam": "broken"},
        7,
    ]
    route = {"metadata": {"name": "r", "namespace": "n"}, "spec": {"parentRefs": references}}
    told = broken_route_status(route, problem, lambda key: key == ObjectKey("Gateway", "n", "ours"))
    assert [one.parent.name for one in told.parents] == ["web", "ours"]
    [condition] = told.parents[0].conditions
    assert (condition.type, condition.status, condition.reason) == ("Accepted", False, "UnsupportedValue")
    assert "unknown field, at $.spec.rools" in condition.message
    broken: list[Any] = [None, [], {"parentRefs": {}}, {}]
    for spec in broken:
        assert broken_route_status({"metadata": {}, "spec": spec}, problem, lambda key: True) == NO_STATUS


def test_nothing_is_said_of_others_kinds() -> None:
    for kind in ("Pod", "Namespace", "EndpointSlice", "GatewayClass", "HTTPRoute"):
        assert wished_status(ObjectKey(kind, "", "x"), None, (NO_STATUS, ()), None) is None


def keys(count: int) -> list[ObjectKey]:
    return [ObjectKey("Service", "n", str(number)) for number in range(count)]


def test_writes_are_limited_each_is_made_once_and_failures_wait() -> None:
    queue = WriteQueue(0.0)
    for wanted in [*keys(200), *keys(200)]:
        queue.put(wanted, 0.0)
    assert len(queue) == 200
    at_once = 0
    while isinstance(taken := queue.take(0.0), ObjectKey):
        at_once += 1
    assert at_once == BURST
    assert 0 < taken <= 1 / RATE
    failing = queue.take(1.0)
    assert isinstance(failing, ObjectKey)
    key = failing
    queue.failed(key, 1.0, 0.5)
    queue.put(key, 1.0)
    queue.drop(keys(200)[-1])
    rest, now = [], 1.0
    while len(queue):
        taken = queue.take(now)
        if isinstance(taken, ObjectKey):
            rest.append(taken)
        else:
            now += taken
    assert rest.count(key) == 1
    assert len(rest) == 200 - at_once - 1
    assert now >= (200 - at_once) / RATE - 1


async def until(condition: Any) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 -- of the double's state
            await trio.sleep(0.01)


async def test_a_policy_is_told_what_became_of_it(server: ApiServer, client: ApiClient) -> None:
    rule = {"to": [{"operation": {"methods": ["GET"]}}]}
    good = {"metadata": {"name": "good", "namespace": "n"}, "spec": {"rules": [{}]}}
    for name, spec in (("good", {"rules": [{}]}), ("odd", {"rules": [rule]}), ("bad", {"rools": []})):
        server.cluster.put(
            POLICIES,
            {"apiVersion": "security.istio.io/v1", "metadata": {"name": name, "namespace": "n"}, "spec": spec},
        )
    routes = "gateway.networking.k8s.io/httproutes"
    unread = {"parentRefs": [{"name": "web", "kind": "Service", "group": ""}], "rools": []}
    version = "gateway.networking.k8s.io/v1"
    server.cluster.put(routes, {"apiVersion": version, "metadata": {"name": "r", "namespace": "n"}, "spec": unread})
    translator = Translator(MeshSettings())

    def told_of_route() -> str:
        parents = server.cluster.get((routes, "n", "r")).get("status", {}).get("parents", [])
        return " ".join(one["reason"] for parent in parents for one in parent["conditions"])

    def told(name: str) -> dict[str, Any]:
        conditions = server.cluster.get((POLICIES, "n", name)).get("status", {}).get("conditions", [{}])
        return {key: conditions[0].get(key) for key in ("status", "reason", "message")}

    async with ApiSource(client).open() as source, trio.open_nursery() as nursery:
        writer = StatusWriter(client, source, translator)

        async def follow() -> None:
            while True:
                objects = await source.wait_change()
                writer.update(objects, translator.update(objects))

        nursery.start_soon(follow)
        await until(lambda: len(translator.objects) == 2)
        assert told("good")["status"] is None, "nobody leads"
        nursery.start_soon(writer.run)
        await until(lambda: told("good")["reason"] == "Accepted")
        await until(lambda: told("odd")["reason"] == "UnsupportedValue" and "methods" in told("odd")["message"])
        await until(lambda: told("bad")["reason"] == "Invalid" and "$.spec.rools" in told("bad")["message"])
        await until(lambda: told_of_route() == "UnsupportedValue")
        await trio.sleep(0.1)
        patches = sum(one.method == "PATCH" for one in server.requests)
        assert patches == 4
        # An object is repaired, another one changed so that it says less.
        server.cluster.put(POLICIES, {**server.cluster.get((POLICIES, "n", "bad")), "spec": good["spec"]})
        await until(lambda: told("bad")["reason"] == "Accepted")
        nursery.cancel_scope.cancel()


async def test_objects_and_gateways_are_applied(server: ApiServer, client: ApiClient) -> None:
    gateway = Gateway(
        metadata=ObjectMeta(name="w", namespace="n", generation=2),
        spec=GatewaySpec(gateway_class_name="ambimesh-waypoint", listeners=()),
    )
    collection = "gateway.networking.k8s.io/gateways"
    server.cluster.put(collection, {"metadata": {"name": "w", "namespace": "n"}, "spec": {}})
    status = GatewayStatus(
        addresses=(GatewayStatusAddress(value="10.0.0.1"),),
        conditions=(
            ObjectCondition(type="Accepted", status="True", reason="Accepted", last_transition_time=NOW),
            ObjectCondition(type="Others", status="True"),
        ),
    )
    writer = ApiWriter(client)
    account = ServiceAccount(metadata=ObjectMeta(name="w", namespace="n", uid="must not be sent"))
    await trio.to_thread.run_sync(writer.apply, account)
    await trio.to_thread.run_sync(writer.write_gateway_status, gateway, status)
    assert server.cluster.get(("/serviceaccounts", "n", "w"))["metadata"]["uid"] != "must not be sent"
    made = server.cluster.get(("/serviceaccounts", "n", "w"))["metadata"]["uid"]
    other = ServiceAccount(metadata=ObjectMeta(name="w", namespace="n", uid=f"not {made}"))
    await trio.to_thread.run_sync(writer.delete, other)
    assert ("/serviceaccounts", "n", "w") in server.cluster.objects
    for known in (made, ""):  # of accounts that are read the uid is not kept
        ours = ServiceAccount(metadata=ObjectMeta(name="w", namespace="n", uid=known))
        for _ in range(2):
            await trio.to_thread.run_sync(writer.delete, ours)
        assert ("/serviceaccounts", "n", "w") not in server.cluster.objects
        await trio.to_thread.run_sync(writer.apply, account)
    written = server.cluster.get((collection, "n", "w"))["status"]
    assert written["addresses"] == [{"type": "IPAddress", "value": "10.0.0.1"}] or written["addresses"]
    assert [(one["type"], one["observedGeneration"]) for one in written["conditions"]] == [("Accepted", 2)]
    assert gateway_status_body(gateway, status)["metadata"] == {"name": "w", "namespace": "n"}
    server.cluster.delete((collection, "n", "w"))
    await trio.to_thread.run_sync(writer.write_gateway_status, gateway, status)

"""The whole translation, incrementally: what a change touches is translated again, and nothing else.

Theory of operation. The translation is cut into *nodes*, each of which is done as a whole: an object's own workload or
service, the destination that waypoints are told of it, the policies that keep clients from passing its waypoint by, a
route's status. A pod's workload depends on the pod, on the endpoint slices that name it and their Services, on the
policies that may select it and on the PeerAuthentications of its namespace and of the mesh: for these, ``Index``
answers in the other direction, whom does this slice, Service or policy concern. Everything that has to do with
waypoints reads through ``tracking.View``, which notes what was read. An update marks the concerned nodes, translates
each of them once, and compares with what was there, so that readers hear of differences only.

The state is nothing but the last objects, indexes over them and the results: after any sequence of updates it equals
that of a translator that saw only the last set of objects (the tests hold it to that).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

from controlplane.translate import peer_authentication
from controlplane.translate.advice import advice_on
from controlplane.translate.binding import bind
from controlplane.translate.delta import Address, Delta, DeltaBuilder, ResultKey, Translated, result_key
from controlplane.translate.finding import Finding
from controlplane.translate.index import Index
from controlplane.translate.layer7.bypass import (
    bypass_findings,
    bypass_policies,
    bypass_policy_names,
    workload_bypass_policy,
)
from controlplane.translate.layer7.destination import destinations
from controlplane.translate.outcome import NOTHING, Outcome
from controlplane.translate.policies import enforced_by_ztunnels, selects, translate_authorization_policy
from controlplane.translate.service_entries import entry_services, translate_service_entry, translate_workload_entry
from controlplane.translate.services import translate_service
from controlplane.translate.settings import MeshSettings
from controlplane.translate.status import NO_STATUS, ObjectStatus
from controlplane.translate.tracking import Node, Tracker, View
from controlplane.translate.workloads import (
    Backing,
    is_pod,
    translate_bare_endpoints,
    translate_pod,
    with_services,
)
from mesh.model.policy import Policy
from mesh.model.service import Service as MeshService
from mesh.model.waypoint import Destination, WorkloadLabels
from mesh.model.workload import Workload
from resources.object_set import ObjectSet
from resources.objects import (
    SERVICE_NAME_LABEL,
    AuthorizationPolicy,
    EndpointSlice,
    KubernetesObject,
    ObjectKey,
    PeerAuthentication,
    Pod,
    Service,
    ServiceEntry,
    WorkloadEntry,
)
from resources.objects import Node as ClusterNode
from resources.sharing import shared

_PolicyKind = TypeVar("_PolicyKind", AuthorizationPolicy, PeerAuthentication)
_Result = TypeVar("_Result", bound=Translated)
_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

OWN = "own"
DESTINATION = "destination"
BYPASS = "bypass"
ADVICE = "advice"
_TASKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Pod": (OWN, DESTINATION, BYPASS),
        "Service": (OWN, DESTINATION, BYPASS),
        "ServiceEntry": (OWN, DESTINATION, BYPASS),
        "EndpointSlice": (OWN,),
        "WorkloadEntry": (OWN,),
        "PeerAuthentication": (OWN,),
        "AuthorizationPolicy": (OWN, ADVICE),
        "ServiceAccount": (),
        "ConfigMap": (),
        "Secret": (),
    }
)
"""What is done for an object of each kind; for all others, advice only."""


class Translator:
    """Keeps the mesh's model in step with a set of objects."""

    def __init__(self, settings: MeshSettings) -> None:
        self.settings = settings
        self._objects = ObjectSet()
        self._results: dict[Node, tuple[Translated, ...]] = {}
        self._findings: dict[Node, tuple[Finding, ...]] = {}
        self._statuses: dict[Node, ObjectStatus] = {}
        self._index = Index(settings)
        self._tracker = Tracker(settings)
        self._static_strict = False

    @property
    def objects(self) -> ObjectSet:
        """What all results and findings are of."""
        return self._objects

    @property
    def findings(self) -> Iterator[Finding]:
        """All findings, by object."""
        for node in sorted(self._findings, key=lambda node: (node.object, node.task)):
            yield from self._findings[node]

    @property
    def statuses(self) -> Mapping[ObjectKey, ObjectStatus]:
        """What is to be said in objects' ``status``: of routes and BackendTLSPolicies, and of whatever asks for a
        waypoint."""
        return {node.object: self._statuses[node] for node in sorted(self._statuses)}

    def said_of(self, key: ObjectKey) -> tuple[ObjectStatus, tuple[Finding, ...]]:
        """Status and findings of one object."""
        nodes = [Node(task, key) for task in _TASKS.get(key.kind, (ADVICE,))]
        statuses = [self._statuses[node] for node in nodes if node in self._statuses]
        status = ObjectStatus(
            conditions=tuple(one for status in statuses for one in status.conditions),
            parents=tuple(one for status in statuses for one in status.parents),
        )
        return status, tuple(finding for node in nodes for finding in self._findings.get(node, ()))

    @property
    def addresses(self) -> Iterator[Address]:
        """All workloads and services."""
        yield from self._all(Workload)
        yield from self._all(MeshService)

    @property
    def policies(self) -> Iterator[Policy]:
        """All policies."""
        yield from self._all(Policy)
        if self._static_strict:
            yield peer_authentication.static_strict_policy(self.settings)

    @property
    def destinations(self) -> Iterator[Destination]:
        """All that waypoints are told of what they serve."""
        return self._all(Destination)

    @property
    def labels(self) -> Iterator[WorkloadLabels]:
        """The labels of all workloads that have any."""
        return self._all(WorkloadLabels)

    def update(self, objects: ObjectSet) -> Delta:
        """Take over a new set of objects."""
        changes = objects.changes_since(self._objects)
        concerned: set[ObjectKey] = set()
        for old in (*changes.removed, *(self._objects.get(value.key) for value in changes.updated)):
            if old is not None:
                concerned.update(self._index.concerned_by(old))
                self._index.remove(old)
        for value in changes.updated:
            self._index.add(value)
        for value in changes.updated:
            concerned.update(self._index.concerned_by(value))
        self._objects = objects
        changed = [*changes.keys, *(value.key for value in changes.removed)]
        # First those with names that the set of objects keeps anyway: of equal nodes the first one stays.
        nodes = {Node(task, key) for key in changed for task in _TASKS.get(key.kind, (ADVICE,))}
        nodes |= self._tracker.take(objects, changes)
        nodes.update(Node(OWN, key) for key in concerned)
        # What an object is itself comes first, and brings along whatever else is done for it: so the others need be
        # remembered as readers only of what it does not read (``Tracker.finish``).
        for key in [node.object for node in nodes if node.task == OWN]:
            nodes.update(Node(task, key) for task in _TASKS.get(key.kind, ()))
        delta = DeltaBuilder()
        for node in sorted(nodes, key=_own_first):
            self._translate_again(node, delta)
        self._update_static_strict(delta)
        return delta.build(changed)

    def _all(self, kind: type[_Result]) -> Iterator[_Result]:
        for results in self._results.values():
            for value in results:
                if isinstance(value, kind):
                    yield value

    def _translate_again(self, node: Node, delta: DeltaBuilder) -> None:
        value = self._objects.get(node.object)
        if value is None:
            self._tracker.forget(node)
            outcome = NOTHING
        else:
            outcome = self._translate(node, value)
        delta.compare(_by_key(self._results.get(node, ())), _by_key(outcome.results))
        restated = self._statuses.get(node, NO_STATUS) != outcome.status
        delta.say(node.object, self._findings.get(node, ()), outcome.findings, restated)
        _put(self._results, node, outcome.results)
        _put(self._findings, node, outcome.findings)
        _put(self._statuses, node, outcome.status)

    def _translate(self, node: Node, value: KubernetesObject) -> Outcome:
        view = self._tracker.view(node)
        try:
            return self._translated(node, value, view)
        finally:
            view.close(None if node.task == OWN else Node(OWN, node.object))

    def _translated(self, node: Node, value: KubernetesObject, view: View) -> Outcome:
        match node.task, value:
            case "own", _:
                return self._own(view, value)
            case "destination", Service() | ServiceEntry() | Pod():
                return Outcome(tuple(destinations(view, value)))
            case "bypass", Service() | ServiceEntry():
                return Outcome(bypass_policies(view, value), bypass_findings(view, value))
            case "bypass", Pod():
                policy = workload_bypass_policy(view, value)
                return Outcome((policy,) if policy else (), bypass_findings(view, value))
        return advice_on(view, value)

    def _own(self, view: View, value: KubernetesObject) -> Outcome:
        """What an object is itself: for ztunnels, and for everybody who chooses endpoints."""
        settings = self.settings
        match value:
            case Pod():
                return self._pod(view, value)
            case EndpointSlice():
                return Outcome(translate_bare_endpoints(value, self._service_of(value), settings))
            case Service():
                binding = bind(view, value.metadata, "service")
                service, found = translate_service(value, settings, binding)
                return Outcome((service,) if service else (), found).told(value.key, binding.condition)
            case ServiceEntry():
                binding = bind(view, value.metadata, "service")
                return Outcome(*translate_service_entry(view, value, binding)).told(value.key, binding.condition)
            case WorkloadEntry():
                binding = bind(view, value.metadata, "workload")
                workload = translate_workload_entry(view, value, binding)
                labels = {**value.metadata.labels, **value.spec.labels}
                return Outcome((workload, *_labels(workload.uid, labels))).told(value.key, binding.condition)
            case AuthorizationPolicy():
                policy, found = translate_authorization_policy(value, settings)
                return Outcome((policy,) if policy else (), found)
            case PeerAuthentication():
                own = None
                namespace = value.metadata.namespace
                if peer_authentication.has_selector(value) and namespace != settings.root_namespace:
                    own = peer_authentication.converted_policy(value, self._base_strict(namespace))
                return Outcome((own,) if own else (), peer_authentication.findings_of(value, settings))
        return NOTHING

    def _pod(self, view: View, pod: Pod) -> Outcome:
        backings = tuple(self._backings(pod))
        binding = bind(view, pod.metadata, "workload")
        policies = {*self._policies_of(pod), *bypass_policy_names(view, pod, backings)}
        if (own := workload_bypass_policy(view, pod)) is not None:
            policies.add(own.key)
        node = view.find(ClusterNode, "", pod.spec.node_name)
        where = node.metadata.labels if node is not None else {}
        workload = translate_pod(pod, backings, tuple(sorted(policies)), self.settings, binding, where)
        if workload is None:
            return NOTHING.told(pod.key, binding.condition)
        more = entry_services(view, pod.metadata.namespace, pod.metadata.labels)
        if more:
            workload = with_services(workload, more)
        return Outcome((workload, *_labels(workload.uid, pod.metadata.labels))).told(pod.key, binding.condition)

    def _backings(self, pod: Pod) -> Iterator[Backing]:
        namespace, name = pod.metadata.namespace, pod.metadata.name
        for slice_name in sorted(self._index.slices_of_pod(pod.key)):
            value = self._objects.find(EndpointSlice, namespace, slice_name)
            service = self._service_of(value) if value else None
            if value is None or service is None:
                continue
            for endpoint in value.endpoints:
                if is_pod(endpoint) and endpoint.target_ref is not None and endpoint.target_ref.name == name:
                    yield Backing(service, value, endpoint)

    def _service_of(self, value: EndpointSlice) -> Service | None:
        name = value.metadata.labels.get(SERVICE_NAME_LABEL, "")
        return self._objects.find(Service, value.metadata.namespace, name)

    def _policies_of(self, pod: Pod) -> tuple[str, ...]:
        """The policies a pod's workload refers to: every name in it is also published."""
        namespace, labels = pod.metadata.namespace, pod.metadata.labels
        root = self.settings.root_namespace
        names: set[str] = set()
        for policy in self._of(AuthorizationPolicy, {namespace, root}):
            own = policy.metadata.namespace
            if enforced_by_ztunnels(policy) and selects(policy.spec.selector, own, namespace, labels, root):
                names.add(f"{own}/{policy.metadata.name}")
        selecting = [
            candidate
            for candidate in self._of(PeerAuthentication, {namespace} - {root})
            if selects(candidate.spec.selector, namespace, namespace, labels, root)
        ]
        names.update(peer_authentication.policy_names(selecting, self._base_strict(namespace), self.settings))
        return tuple(sorted(names))

    def _base_strict(self, namespace: str) -> bool:
        root = self.settings.root_namespace
        whole = {
            place: [
                policy
                for policy in self._of(PeerAuthentication, {place})
                if not peer_authentication.has_selector(policy)
            ]
            for place in (root, namespace)
        }
        return peer_authentication.base_strict(whole[root], whole[namespace])

    def _of(self, kind: type[_PolicyKind], namespaces: Iterable[str]) -> Iterator[_PolicyKind]:
        for namespace in namespaces:
            for key in self._index.policies(kind.__name__, namespace):
                found = self._objects.find(kind, namespace, key.name)
                if found is not None:
                    yield found

    def _update_static_strict(self, delta: DeltaBuilder) -> None:
        """The static STRICT policy exists while any PeerAuthentication does."""
        wanted = any(True for _ in self._objects.of_kind(PeerAuthentication))
        if wanted is self._static_strict:
            return
        self._static_strict = wanted
        policy = peer_authentication.static_strict_policy(self.settings)
        if wanted:
            delta.update(result_key(policy), policy)
        else:
            delta.remove(result_key(policy))


def _labels(uid: str, labels: Mapping[str, str]) -> Iterator[WorkloadLabels]:
    if labels:
        yield WorkloadLabels(uid=uid, labels=shared(tuple(sorted(labels.items()))))


def _own_first(node: Node) -> bool:
    return node.task != OWN


def _by_key(results: Iterable[Translated]) -> Mapping[ResultKey, Translated]:
    return {result_key(result): result for result in results}


def _put(table: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    """Keep a result that holds something; an empty one takes no room."""
    if value:
        table[key] = value
    else:
        table.pop(key, None)

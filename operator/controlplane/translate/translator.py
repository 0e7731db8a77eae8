"""The whole translation, incrementally: what a change touches is translated again, and nothing else.

Theory of operation. A pod's workload depends on the pod, on the endpoint slices that name it and their Services, on the
policies that may select it and on the PeerAuthentications of its namespace and of the mesh. Indexes answer in the other
direction: whom does this slice, Service or policy concern. An update marks the concerned sources, translates each of
them once, and compares with what was there, so that readers hear of differences only.

The state is nothing but the last objects, indexes over them and the results: after any sequence of updates it equals
that of a translator that saw only the last set of objects (the tests hold it to that).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

from controlplane.translate import peer_authentication
from controlplane.translate.delta import Address, Delta, DeltaBuilder, Translated, resource_name
from controlplane.translate.finding import Finding
from controlplane.translate.index import Index
from controlplane.translate.policies import enforced_by_ztunnels, selects, translate_authorization_policy
from controlplane.translate.services import translate_service, waypoint_findings
from controlplane.translate.settings import MeshSettings
from controlplane.translate.workloads import Backing, is_pod, translate_bare_endpoints, translate_pod
from mesh.model.policy import Policy
from resources.object_set import ObjectSet
from resources.objects import (
    SERVICE_NAME_LABEL,
    AuthorizationPolicy,
    EndpointSlice,
    KubernetesObject,
    Namespace,
    ObjectKey,
    PeerAuthentication,
    Pod,
    Service,
)

_PolicyKind = TypeVar("_PolicyKind", AuthorizationPolicy, PeerAuthentication)
_Value = TypeVar("_Value")
_NONE: Mapping[str, Translated] = MappingProxyType({})


class Translator:
    """Keeps the mesh's model in step with a set of objects."""

    def __init__(self, settings: MeshSettings) -> None:
        self._settings = settings
        self._objects = ObjectSet()
        self._results: dict[ObjectKey, Mapping[str, Translated]] = {}
        self._findings: dict[ObjectKey, tuple[Finding, ...]] = {}
        self._index = Index(settings)
        self._static_strict = False

    @property
    def objects(self) -> ObjectSet:
        """What all results and findings are of."""
        return self._objects

    @property
    def findings(self) -> Iterator[Finding]:
        """All findings, by object."""
        for key in sorted(self._findings):
            yield from self._findings[key]

    @property
    def addresses(self) -> Iterator[Address]:
        """All workloads and services."""
        for results in self._results.values():
            for value in results.values():
                if not isinstance(value, Policy):
                    yield value

    @property
    def policies(self) -> Iterator[Policy]:
        """All policies."""
        for results in self._results.values():
            for value in results.values():
                if isinstance(value, Policy):
                    yield value
        if self._static_strict:
            yield peer_authentication.static_strict_policy(self._settings)

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
        for value in (*changes.updated, *changes.removed):
            concerned.add(value.key)
        for value in changes.updated:
            concerned.update(self._index.concerned_by(value))
        self._objects = objects
        delta = DeltaBuilder()
        for key in concerned:
            self._translate_again(key, delta)
        self._update_static_strict(delta)
        return delta.build()

    def _translate_again(self, key: ObjectKey, delta: DeltaBuilder) -> None:
        value = self._objects.get(key)
        results, findings = ((), ()) if value is None else self._translate(value)
        before = self._results.get(key, _NONE)
        now = {resource_name(result): result for result in results}
        for name, result in now.items():
            if before.get(name) != result:
                delta.update(name, result)
        for name, old in before.items():
            if name not in now:
                delta.remove(name, old)
        _put(self._results, key, now)
        _put(self._findings, key, findings)

    def _translate(self, value: KubernetesObject) -> tuple[tuple[Translated, ...], tuple[Finding, ...]]:
        settings = self._settings
        match value:
            case Pod():
                workload = translate_pod(value, self._backings(value), self._policies_of(value), settings)
                found = tuple(waypoint_findings(value.key, value.metadata.labels))
                return ((workload,) if workload else ()), found
            case EndpointSlice():
                service = self._service_of(value)
                return translate_bare_endpoints(value, service, settings), ()
            case Service():
                translated, found = translate_service(value, settings)
                return ((translated,) if translated else ()), found
            case AuthorizationPolicy():
                policy, found = translate_authorization_policy(value, settings)
                return ((policy,) if policy else ()), found
            case PeerAuthentication():
                own = None
                namespace = value.metadata.namespace
                if peer_authentication.has_selector(value) and namespace != settings.root_namespace:
                    own = peer_authentication.converted_policy(value, self._base_strict(namespace))
                return ((own,) if own else ()), peer_authentication.findings_of(value, settings)
            case Namespace():
                return (), tuple(waypoint_findings(value.key, value.metadata.labels))
            case _:
                return (), ()

    def _backings(self, pod: Pod) -> Iterator[Backing]:
        namespace, name = pod.metadata.namespace, pod.metadata.name
        for key in sorted(self._index.slices_of_pod(pod.key)):
            value = self._objects.find(EndpointSlice, namespace, key.name)
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
        root = self._settings.root_namespace
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
        names.update(peer_authentication.policy_names(selecting, self._base_strict(namespace), self._settings))
        return tuple(sorted(names))

    def _base_strict(self, namespace: str) -> bool:
        root = self._settings.root_namespace
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
        policy = peer_authentication.static_strict_policy(self._settings)
        if wanted:
            delta.update(policy.key, policy)
        else:
            delta.remove(policy.key, policy)


def _put(table: dict[ObjectKey, _Value], key: ObjectKey, value: _Value) -> None:
    """Keep a result that holds something; an empty one takes no room."""
    if value:
        table[key] = value
    else:
        table.pop(key, None)

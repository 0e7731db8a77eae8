"""From an object to the objects whose translation it concerns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

from controlplane.translate.peer_authentication import has_selector
from controlplane.translate.policies import selects
from controlplane.translate.settings import MeshSettings
from controlplane.translate.workloads import is_pod
from resources.objects import (
    SERVICE_NAME_LABEL,
    AuthorizationPolicy,
    EndpointSlice,
    KubernetesObject,
    ObjectKey,
    PeerAuthentication,
    Pod,
    Service,
)
from resources.security import WorkloadSelector

_Outer = TypeVar("_Outer", bound=Hashable)
_Key = TypeVar("_Key", bound=Hashable)
_Inner = TypeVar("_Inner")
_Names = tuple[str, ...]


class Index:
    """Who must be translated again when an object comes, changes or goes."""

    def __init__(self, settings: MeshSettings) -> None:
        self._root = settings.root_namespace
        # By name, within a namespace: a key of its own for each mention of a pod would be most of this index.
        self._pods: defaultdict[str, dict[str, dict[str, str]]] = defaultdict(dict)
        """Labels of the pods of a namespace."""
        self._slices_of_pod: defaultdict[str, dict[str, _Names]] = defaultdict(dict)
        """By namespace and pod: slices; mostly one."""
        self._slices_of_service: defaultdict[tuple[str, str], dict[str, _Names]] = defaultdict(dict)
        """By namespace and Service: slices, and the pods each of them names."""
        self._policies: defaultdict[tuple[str, str], dict[ObjectKey, bool]] = defaultdict(dict)
        """By kind and namespace: policies, and whether they have a selector."""

    def add(self, value: KubernetesObject) -> None:
        """Take an object in, in the place of an older version that was removed before."""
        key = value.key
        match value:
            case Pod():
                self._pods[key.namespace][key.name] = value.metadata.labels
            case EndpointSlice():
                pods = tuple(dict.fromkeys(_pods_named(value)))
                self._slices_of_service[_service_of(value)][key.name] = pods
                slices = self._slices_of_pod[key.namespace]
                alone = (key.name,)  # nearly every pod is in one slice, and those of it can share this
                for pod in pods:
                    before = slices.get(pod)
                    slices[pod] = (*before, key.name) if before else alone
            case AuthorizationPolicy():
                self._policies[key.kind, key.namespace][key] = bool(value.spec.selector)
            case PeerAuthentication():
                self._policies[key.kind, key.namespace][key] = has_selector(value)
            case _:
                pass

    def remove(self, value: KubernetesObject) -> None:
        """Take an object out, as it was when it was added."""
        key = value.key
        match value:
            case Pod():
                _discard(self._pods, key.namespace, key.name)
            case EndpointSlice():
                _discard(self._slices_of_service, _service_of(value), key.name)
                slices = self._slices_of_pod[key.namespace]
                for pod in _pods_named(value):
                    rest = tuple(each for each in slices.pop(pod, ()) if each != key.name)
                    if rest:
                        slices[pod] = rest
                if not slices:
                    del self._slices_of_pod[key.namespace]
            case AuthorizationPolicy() | PeerAuthentication():
                _discard(self._policies, (key.kind, key.namespace), key)
            case _:
                pass

    def slices_of_pod(self, pod: ObjectKey) -> Iterable[str]:
        """Names of the endpoint slices, of its namespace, that name a pod."""
        return self._slices_of_pod.get(pod.namespace, {}).get(pod.name, ())

    def policies(self, kind: str, namespace: str) -> Iterable[ObjectKey]:
        """The policies of a kind in a namespace."""
        return self._policies.get((kind, namespace), {})

    def concerned_by(self, value: KubernetesObject) -> Iterator[ObjectKey]:
        """Other objects whose translation may change with this one."""
        match value:
            case EndpointSlice():
                yield from _pod_keys(value.metadata.namespace, _pods_named(value))
            case Service():
                namespace = value.metadata.namespace
                for name, pods in self._slices_of_service.get((namespace, value.metadata.name), {}).items():
                    yield ObjectKey("EndpointSlice", namespace, name)
                    yield from _pod_keys(namespace, pods)
            case AuthorizationPolicy():
                yield from self._selected(value.spec.selector, value.metadata.namespace)
            case PeerAuthentication() if has_selector(value):
                yield from self._selected(value.spec.selector, value.metadata.namespace)
            case PeerAuthentication():
                yield from self._governed(value.metadata.namespace)
            case _:
                pass

    def _selected(self, selector: WorkloadSelector | None, namespace: str) -> Iterator[ObjectKey]:
        for place in self._reach(namespace, self._pods):
            for pod, labels in self._pods.get(place, {}).items():
                if selects(selector, namespace, place, labels, self._root):
                    yield ObjectKey("Pod", place, pod)

    def _governed(self, namespace: str) -> Iterator[ObjectKey]:
        """Whom a mode without selector concerns: pods, and policies whose ports are exceptions from it."""
        for place in self._reach(namespace, self._pods):
            yield from _pod_keys(place, self._pods.get(place, {}))
        kind = PeerAuthentication.__name__
        for place in self._reach(namespace, {place for known, place in self._policies if known == kind}):
            yield from (key for key, has in self._policies.get((kind, place), {}).items() if has)

    def _reach(self, namespace: str, everywhere: Iterable[str]) -> list[str]:
        return list(everywhere) if namespace == self._root else [namespace]


def _pods_named(value: EndpointSlice) -> Iterator[str]:
    """Names, within the slice's namespace."""
    for endpoint in value.endpoints:
        if is_pod(endpoint) and endpoint.target_ref is not None and endpoint.target_ref.name:
            yield endpoint.target_ref.name


def _pod_keys(namespace: str, names: Iterable[str]) -> Iterator[ObjectKey]:
    for name in names:
        yield ObjectKey("Pod", namespace, name)


def _service_of(value: EndpointSlice) -> tuple[str, str]:
    return value.metadata.namespace, value.metadata.labels.get(SERVICE_NAME_LABEL, "")


def _discard(table: defaultdict[_Outer, dict[_Key, _Inner]], outer: _Outer, key: _Key) -> None:
    """Remove an entry, and its table when that is empty, so that churn leaves nothing behind."""
    inner = table[outer]
    inner.pop(key, None)
    if not inner:
        del table[outer]

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
_Inner = TypeVar("_Inner")
_Pods = tuple[ObjectKey, ...]


class Index:
    """Who must be translated again when an object comes, changes or goes."""

    def __init__(self, settings: MeshSettings) -> None:
        self._root = settings.root_namespace
        self._pods: defaultdict[str, dict[ObjectKey, dict[str, str]]] = defaultdict(dict)
        """Labels of the pods of a namespace."""
        self._slices_of_pod: dict[ObjectKey, tuple[ObjectKey, ...]] = {}
        """Mostly one."""
        self._slices_of_service: defaultdict[tuple[str, str], dict[ObjectKey, _Pods]] = defaultdict(dict)
        """By namespace and Service name: slices, and the pods each of them names."""
        self._policies: defaultdict[tuple[str, str], dict[ObjectKey, bool]] = defaultdict(dict)
        """By kind and namespace: policies, and whether they have a selector."""

    def add(self, value: KubernetesObject) -> None:
        """Take an object in, in the place of an older version that was removed before."""
        key = value.key
        match value:
            case Pod():
                self._pods[key.namespace][key] = value.metadata.labels
            case EndpointSlice():
                pods = tuple(dict.fromkeys(_pods_named(value)))
                self._slices_of_service[_service_of(value)][key] = pods
                for pod in pods:
                    self._slices_of_pod[pod] = (*self._slices_of_pod.get(pod, ()), key)
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
                _discard(self._pods, key.namespace, key)
            case EndpointSlice():
                _discard(self._slices_of_service, _service_of(value), key)
                for pod in _pods_named(value):
                    slices = tuple(each for each in self._slices_of_pod.pop(pod, ()) if each != key)
                    if slices:
                        self._slices_of_pod[pod] = slices
            case AuthorizationPolicy() | PeerAuthentication():
                _discard(self._policies, (key.kind, key.namespace), key)
            case _:
                pass

    def slices_of_pod(self, pod: ObjectKey) -> Iterable[ObjectKey]:
        """The endpoint slices that name a pod."""
        return self._slices_of_pod.get(pod, ())

    def policies(self, kind: str, namespace: str) -> Iterable[ObjectKey]:
        """The policies of a kind in a namespace."""
        return self._policies.get((kind, namespace), {})

    def concerned_by(self, value: KubernetesObject) -> Iterator[ObjectKey]:
        """Other objects whose translation may change with this one."""
        match value:
            case EndpointSlice():
                yield from _pods_named(value)
            case Service():
                slices = self._slices_of_service.get((value.metadata.namespace, value.metadata.name), {})
                for key, pods in slices.items():
                    yield key
                    yield from pods
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
                    yield pod

    def _governed(self, namespace: str) -> Iterator[ObjectKey]:
        """Whom a mode without selector concerns: pods, and policies whose ports are exceptions from it."""
        for place in self._reach(namespace, self._pods):
            yield from self._pods.get(place, {})
        kind = PeerAuthentication.__name__
        for place in self._reach(namespace, {place for known, place in self._policies if known == kind}):
            yield from (key for key, has in self._policies.get((kind, place), {}).items() if has)

    def _reach(self, namespace: str, everywhere: Iterable[str]) -> list[str]:
        return list(everywhere) if namespace == self._root else [namespace]


def _pods_named(value: EndpointSlice) -> Iterator[ObjectKey]:
    for endpoint in value.endpoints:
        if is_pod(endpoint) and endpoint.target_ref is not None and endpoint.target_ref.name:
            yield ObjectKey("Pod", value.metadata.namespace, endpoint.target_ref.name)


def _service_of(value: EndpointSlice) -> tuple[str, str]:
    return value.metadata.namespace, value.metadata.labels.get(SERVICE_NAME_LABEL, "")


def _discard(table: defaultdict[_Outer, dict[ObjectKey, _Inner]], outer: _Outer, key: ObjectKey) -> None:
    """Remove an entry, and its table when that is empty, so that churn leaves nothing behind."""
    inner = table[outer]
    inner.pop(key, None)
    if not inner:
        del table[outer]

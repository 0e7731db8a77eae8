"""Where the root certificates are needed: the ConfigMap ``ambimesh-root-cert`` of every enrolled namespace. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from controlplane.kube.permissions import TRUST_BUNDLE
from resources.object_set import ObjectSet
from resources.objects import Gateway, Namespace

BUNDLE_KEY = "root-cert.pem"
_MODE_LABEL = "istio.io/dataplane-mode"
_WAYPOINT_LABEL = "istio.io/use-waypoint"
_OURS = {"app.kubernetes.io/managed-by": "ambimesh"}


def enrolled_namespaces(objects: ObjectSet, own: str, gateway_classes: frozenset[str]) -> frozenset[str]:
    """The namespaces whose pods may need the roots: enrolled, with a waypoint, or our own.

    Args:
        objects: of the cluster.
        own: the operator's namespace.
        gateway_classes: of waypoints.
    """
    found = {own}
    for namespace in objects.of_kind(Namespace):
        labels = namespace.metadata.labels
        leaving = namespace.metadata.deletion_timestamp is not None
        if not leaving and (labels.get(_MODE_LABEL) == "ambient" or labels.get(_WAYPOINT_LABEL, "none") != "none"):
            found.add(namespace.metadata.name)
    found.update(
        gateway.metadata.namespace
        for gateway in objects.of_kind(Gateway)
        if gateway.spec.gateway_class_name in gateway_classes
    )
    return frozenset(found)


def bundle_of(namespace: str, roots: bytes) -> dict[str, Any]:
    """The ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": TRUST_BUNDLE, "namespace": namespace, "labels": _OURS},
        "data": {BUNDLE_KEY: roots.decode()},
    }


def is_ours(config_map: dict[str, Any]) -> bool:
    """Whether we have written the roots into a ConfigMap of that name."""
    labels = (config_map.get("metadata") or {}).get("labels") or {}
    return all(labels.get(name) == value for name, value in _OURS.items())


def is_shared(config_map: dict[str, Any]) -> bool:
    """Whether somebody else keeps something in it, too: it is not to be deleted then, see ``TAKEN_OUT``."""
    data = config_map.get("data") or {}
    return bool(data.keys() - {BUNDLE_KEY}) or bool(config_map.get("binaryData"))


TAKEN_OUT: Mapping[str, Any] = MappingProxyType(
    {"metadata": {"labels": dict.fromkeys(_OURS)}, "data": {BUNDLE_KEY: None}}
)
"""A merge patch that takes out of a ConfigMap what is ours."""

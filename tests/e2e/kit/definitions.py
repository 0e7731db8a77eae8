"""Definitions of the kinds that the mesh reads, as far as an API server needs them to keep such objects."""

from __future__ import annotations

from typing import Any

from resources.kube.kinds import ApiKind

_OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_CONDITIONS = {
    "type": "array",
    "items": {**_OPEN, "required": ["type"], "properties": {"type": {"type": "string"}}},
}
_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


def definition(kind: ApiKind) -> dict[str, Any]:
    """As much of the kind's definition as it takes: its group's way with conditions, and a status of its own."""
    merged = kind.name in ("Gateway", "GatewayClass")
    conditions = {**_CONDITIONS, **(_BY_TYPE if merged else {})}
    status = {**_OPEN, "properties": {"conditions": conditions}}
    schema = {"type": "object", "properties": {"spec": _OPEN, "status": status}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{kind.group}",
            # The API server asks it of definitions in groups of the Kubernetes project.
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api"},
        },
        "spec": {
            "group": kind.group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {"plural": kind.plural, "singular": kind.name.lower(), "kind": kind.name},
            "versions": [
                {
                    "name": kind.versions[0],
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }

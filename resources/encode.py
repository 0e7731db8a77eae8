"""Objects to manifests."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml

from resources.objects import KubernetesObject

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def to_document(value: KubernetesObject) -> dict[str, Any]:
    """The object as plain values, in the customary order of fields; fields at their default are left out."""
    fields = msgspec.to_builtins(value)
    metadata = fields.pop("metadata")
    return {"apiVersion": value.api_version, "kind": value.kind, "metadata": metadata, **fields}


def to_yaml(value: KubernetesObject) -> str:
    """The object as one YAML document."""
    text: str = yaml.dump(
        to_document(value), Dumper=_DUMPER, sort_keys=False, default_flow_style=False, allow_unicode=True
    )
    return text

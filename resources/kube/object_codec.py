"""Objects as the API sends them, to the structures of ``resources``.

Theory of operation. The structures refuse fields they do not have, which is right for a manifest and wrong for an API
server that is newer than this program: its pods have fields that nobody here has heard of. They also hold everything,
where an operator needs a tenth of a pod. So each kind is decoded into a *twin* first, made from its structure once:
with the same fields, or fewer, and deaf to others. msgspec skips what the twin does not have while it parses, and makes
the structure of the twin. What a twin has is checked as ever.

A kind that is read strictly has the twins for ``metadata`` and ``status`` only, which other programs write; its
``spec`` says what somebody wants of the mesh, and a field there that is not known makes the object a problem.

The API writes nulls where Go has an empty list, which the structures do not take. They are rare, so they are taken out
in a second attempt only, once the first has failed.
"""

from __future__ import annotations

import sys
import types
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

from resources import admission
from resources.base import Condition, Fields, ObjectMeta, Raw
from resources.decode import explained, format_path, with_metadata, with_namespace
from resources.documents import without_nulls
from resources.kube.kinds import ApiKind, Reading
from resources.kube.lean import lean
from resources.network import Endpoint
from resources.node import NOT_READY_TAINT, NodeSpec, Taint
from resources.objects import (
    CREDENTIAL_KEYS,
    ROOTS_KEY,
    ConfigMap,
    Deployment,
    EndpointSlice,
    KubernetesObject,
    Node,
    ObjectKey,
    Pod,
    Secret,
    ServiceAccount,
)
from resources.pod import Container, ContainerPort, PodSpec, PodStatus
from resources.problem import Problem
from resources.sharing import shared, shared_mapping

MAX_OBJECT = 4 << 20
"""Bytes of one object; an API server's own limit is some 1.5 MiB."""
PLACE = "Kubernetes API"

_KEPT: dict[type, frozenset[str]] = {
    ObjectMeta: frozenset(
        {
            "name", "namespace", "uid", "resource_version", "generation", "creation_timestamp", "deletion_timestamp",
            "labels", "annotations", "owner_references",
        }
    ),
    PodSpec: frozenset({"containers", "service_account_name", "service_account", "node_name", "host_network"}),
    Container: frozenset({"name", "ports"}),
    ContainerPort: frozenset({"name", "container_port", "protocol"}),
    PodStatus: frozenset({"phase", "conditions", "pod_ip", "pod_ips"}),
    Endpoint: frozenset({"addresses", "conditions", "target_ref", "node_name", "zone"}),
    Node: frozenset({"metadata", "spec"}),
    NodeSpec: frozenset({"taints"}),
    Taint: frozenset({"key"}),
    ConfigMap: frozenset({"metadata", "data"}),
    Secret: frozenset({"metadata", "data"}),
}  # fmt: skip
"""Of these structures, what anybody looks at."""

_ANNOTATION_MARKS = ("istio.io/", "ambimesh.dev/")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class _Name(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Named(msgspec.Struct):
    metadata: _Name


def decode_object(kind: ApiKind, raw: bytes | msgspec.Raw) -> KubernetesObject | Problem:
    """One object of a kind, without what nobody looks at; a Problem that names it and the field if it cannot be read.

    Args:
        kind: what it is known to be.
        raw: its JSON.
    """
    raw = bytes(raw)
    key = named(kind, raw)
    if len(raw) > MAX_OBJECT:
        return Problem(place=PLACE, message=f"larger than {MAX_OBJECT} bytes", remedy="make it smaller", key=key)
    try:
        decoded = _decoded(kind, raw)
    except msgspec.ValidationError as error:
        path, message, remedy = explained(str(error), kind.type)
        return Problem(place=PLACE, message=message, field=_field(path), remedy=remedy, key=key)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Problem(place=PLACE, message=f"not readable: {error}", key=key)
    decoded = _lean(with_namespace(decoded))
    for violation in admission.violations(decoded):
        return Problem(
            place=PLACE,
            message=violation.message,
            field=_field(violation.path),
            remedy=violation.remedy,
            key=decoded.key,
        )
    return decoded


def named(kind: ApiKind, raw: bytes | msgspec.Raw) -> ObjectKey | None:
    """The name of an object, which may be broken otherwise; None if not even that can be read."""
    try:
        metadata = msgspec.json.decode(raw, type=_Named).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return ObjectKey(kind.name, (metadata.namespace or "default") if kind.namespaced else "", metadata.name)


def _decoded(kind: ApiKind, raw: bytes) -> KubernetesObject:
    decoder = _decoder(kind)
    try:
        twin = decoder.decode(raw)
    except msgspec.ValidationError:
        twin = msgspec.convert(without_nulls(msgspec.json.decode(raw)), decoder.type)
    return msgspec.convert(twin, kind.type, from_attributes=True)


def _lean(value: KubernetesObject) -> KubernetesObject:
    """Without annotations that are for others, without what would make a change of something that is none, and with
    parts that many objects have alike kept once."""
    metadata = value.metadata
    if isinstance(value, Node):
        # A node's status changes all the time, and its taints are others' but for one.
        named_only = ObjectMeta(name=metadata.name, uid=metadata.uid, labels=metadata.labels)
        taints = tuple(taint for taint in value.spec.taints if taint.key == NOT_READY_TAINT)
        return Node(metadata=named_only, spec=NodeSpec(taints=taints))
    if isinstance(value, ConfigMap):
        # The API cannot be asked for just those that policies name. So of each the rest is let go of, and a change of
        # it is none.
        roots = {key: text for key, text in value.data.items() if key == ROOTS_KEY}
        bare = ObjectMeta(name=metadata.name, namespace=sys.intern(metadata.namespace))
        return ConfigMap(metadata=bare, data=shared_mapping(roots))
    if isinstance(value, Secret):
        credentials = {key: text for key, text in value.data.items() if key in CREDENTIAL_KEYS}
        bare = ObjectMeta(name=metadata.name, namespace=sys.intern(metadata.namespace))
        return Secret(metadata=bare, data=credentials)
    annotations = metadata.annotations
    if isinstance(value, Pod):
        annotations = {
            key: text for key, text in annotations.items() if any(mark in key for mark in _ANNOTATION_MARKS)
        }
        value = msgspec.structs.replace(value, spec=_lean_pod_spec(value.spec), status=_lean_pod_status(value.status))
    elif isinstance(value, EndpointSlice):
        value = msgspec.structs.replace(
            value, endpoints=tuple(map(_lean_endpoint, value.endpoints)), ports=shared(value.ports)
        )
    elif _APPLIED in annotations:
        annotations = {key: text for key, text in annotations.items() if key != _APPLIED}
    if isinstance(value, Pod | EndpointSlice | ServiceAccount):
        # There are many of them, and nobody asks how old they are; without its version, a change of what is left out
        # here is no change.
        of_pods = {"uid": metadata.uid, "deletion_timestamp": metadata.deletion_timestamp}
        metadata = lean(
            metadata,
            "name",
            namespace=sys.intern(metadata.namespace),
            labels=shared_mapping(metadata.labels),
            annotations=shared_mapping(annotations),
            owner_references=shared(metadata.owner_references),
            **(of_pods if isinstance(value, Pod) else {}),
        )
        return with_metadata(value, metadata)
    return with_metadata(
        value,
        msgspec.structs.replace(
            metadata,
            namespace=sys.intern(metadata.namespace),
            labels=shared_mapping(metadata.labels),
            annotations=shared_mapping(annotations),
            owner_references=shared(metadata.owner_references),
        ),
    )


def _lean_pod_spec(spec: PodSpec) -> PodSpec:
    return lean(
        spec,
        "host_network",
        containers=shared(spec.containers),
        node_name=sys.intern(spec.node_name),
        service_account_name=sys.intern(spec.account),
    )


def _lean_pod_status(status: PodStatus) -> PodStatus:
    ready = tuple(Condition(type=one.type, status=one.status) for one in status.conditions if one.type == "Ready")
    alone = len(status.pod_ips) == 1 and status.pod_ips[0].ip == status.pod_ip
    return lean(
        status,
        "pod_ip",
        phase=sys.intern(status.phase),
        conditions=shared(ready),
        # A single address is said twice by the API.
        pod_ips=() if alone else status.pod_ips,
    )


def _lean_endpoint(endpoint: Endpoint) -> Endpoint:
    target = endpoint.target_ref
    return lean(
        endpoint,
        # A pod's address is known by the pod.
        addresses=() if target is not None and target.kind == "Pod" else endpoint.addresses,
        conditions=shared(endpoint.conditions),
        node_name=sys.intern(endpoint.node_name),
        zone=sys.intern(endpoint.zone),
        target_ref=lean(target, "kind", "name") if target is not None else None,
    )


def _field(path: tuple[str | int, ...]) -> str:
    return format_path(path) if path else ""


@cache
def _decoder(kind: ApiKind) -> msgspec.json.Decoder[Any]:
    structure = kind.type
    lenient = kind.reading is Reading.LENIENT
    # What a Deployment holds of a pod is compared with what it should hold: all of it.
    whole = structure is Deployment
    return msgspec.json.Decoder(_twin(structure, frozenset() if lenient else frozenset({"spec"}), whole))


def _twin(structure: type, strict: frozenset[str], whole: bool) -> type:
    """A structure that is deaf to other fields, with those that are kept.

    Args:
        structure: a ``Fields``.
        strict: fields whose values are the structures themselves.
        whole: keep all fields there are, but of metadata.
    """
    kept = None if whole and structure is not ObjectMeta else _KEPT.get(structure)
    hints = get_type_hints(structure, include_extras=True)
    fields: list[Any] = []
    for one in msgspec.structs.fields(structure):
        if kept is not None and one.name not in kept:
            continue
        annotation = hints[one.name] if one.name in strict else _twinned(hints[one.name], whole)
        if one.required:
            fields.append((one.name, annotation, msgspec.field(name=one.encode_name)))
        elif one.default_factory is not msgspec.NODEFAULT:
            fields.append(
                (one.name, annotation, msgspec.field(default_factory=one.default_factory, name=one.encode_name))
            )
        else:
            fields.append((one.name, annotation, msgspec.field(default=one.default, name=one.encode_name)))
    return msgspec.defstruct(f"{structure.__name__}Twin", fields, frozen=True, kw_only=True)


@cache
def _loose(structure: type, whole: bool) -> type:
    return _twin(structure, frozenset(), whole)


def _twinned(annotation: Any, whole: bool) -> Any:
    """A type with the structures in it replaced by their twins."""
    if isinstance(annotation, type) and issubclass(annotation, Fields):
        return _loose(annotation, whole)
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is None or annotation is Raw:
        return annotation
    if origin is Annotated:
        return Annotated[(_twinned(inner[0], whole), *inner[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(_twinned(one, whole) for one in inner)]  # noqa: UP007 -- of a number of types known at run time
    if origin in (tuple, dict):
        return origin[tuple(one if one is ... else _twinned(one, whole) for one in inner)]
    return annotation

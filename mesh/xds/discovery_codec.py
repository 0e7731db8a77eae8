"""Requests and responses of delta discovery, as bytes and as values.

A response is assembled from resources that were serialized once (``resource_field``): protocol buffer fields may be
concatenated, so a push to a thousand clients costs each of them a join of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from mesh.errors import InvalidMessage
from mesh.wire import discovery_pb2 as wire

WILDCARD = "*"
MAX_NAMES = 65536
"""Names in one request's subscription lists."""
MAX_NAME_CHARACTERS = 1024

_INVALID_ARGUMENT = 3
_RESOURCES_TAG = b"\x12"  # field 2, length-delimited


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """Who a client says it is."""

    pod: str
    namespace: str
    ip: str
    """Text form."""
    node: str
    """The Kubernetes node it runs on."""
    cluster_id: str = "Kubernetes"
    kind: str = "ztunnel"
    metadata: Mapping[str, str] = field(default_factory=dict)
    """More metadata, such as what ``ISTIO_META_*`` holds."""

    @property
    def id(self) -> str:
        """``<kind>~<ip>~<pod>.<namespace>~<namespace>.svc.cluster.local``."""
        return f"{self.kind}~{self.ip}~{self.pod}.{self.namespace}~{self.namespace}.svc.cluster.local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asks or acknowledges."""

    type_url: str
    node_id: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=dict)
    nonce: str = ""
    error: str | None = None
    """Why the response with this nonce was (partly) rejected."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource as it arrived."""

    name: str
    version: str
    aliases: tuple[str, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Rejected:
    """A resource that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a server says has changed."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    malformed: tuple[Rejected, ...] = ()
    """Resources without a name, or of another type than the response."""


def encode_request(request: Request, node: NodeInfo | None = None) -> bytes:
    """A request; the first of a stream carries the node."""
    message = wire.DeltaDiscoveryRequest(
        type_url=request.type_url,
        resource_names_subscribe=request.subscribe,
        resource_names_unsubscribe=request.unsubscribe,
        initial_resource_versions=request.initial_versions,
        response_nonce=request.nonce,
    )
    if request.error is not None:
        message.error_detail.code = _INVALID_ARGUMENT
        message.error_detail.message = request.error
    if node is not None:
        message.node.id = node.id
        metadata = {
            **node.metadata,
            "NAME": node.pod,
            "NAMESPACE": node.namespace,
            "INSTANCE_IPS": node.ip,
            "NODE_NAME": node.node,
            "CLUSTER_ID": node.cluster_id,
        }
        message.node.metadata.update(metadata)
    return message.SerializeToString()


def decode_request(payload: bytes) -> Request:
    """Read a client's request.

    Raises:
        InvalidMessage: not a request, or beyond the bounds.
    """
    message = wire.DeltaDiscoveryRequest()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise InvalidMessage(f"DeltaDiscoveryRequest: not a protocol buffer of this type: {error}") from error
    return Request(
        type_url=message.type_url[:MAX_NAME_CHARACTERS],
        node_id=message.node.id[:MAX_NAME_CHARACTERS],
        subscribe=_names(message.resource_names_subscribe, "resource_names_subscribe"),
        unsubscribe=_names(message.resource_names_unsubscribe, "resource_names_unsubscribe"),
        initial_versions=dict(message.initial_resource_versions),
        nonce=message.response_nonce,
        error=message.error_detail.message if message.HasField("error_detail") else None,
    )


def _names(names: Iterable[str], what: str) -> tuple[str, ...]:
    taken = tuple(names)
    if len(taken) > MAX_NAMES:
        raise InvalidMessage(f"{what}: {len(taken)} names, more than the {MAX_NAMES} allowed")
    for name in taken:
        if not 0 < len(name) <= MAX_NAME_CHARACTERS:
            raise InvalidMessage(f"{what}: a name of {len(name)} characters; 1 to {MAX_NAME_CHARACTERS} are allowed")
    return taken


def resource_field(type_url: str, resource: Resource) -> bytes:
    """One resource as it stands within a response."""
    message = wire.Resource(name=resource.name, version=resource.version, aliases=resource.aliases)
    message.resource.type_url = type_url
    message.resource.value = resource.payload
    raw = message.SerializeToString()
    return _RESOURCES_TAG + _varint(len(raw)) + raw


def payload_of(raw: bytes) -> bytes:
    """The resource's own bytes, out of what ``resource_field`` made."""
    return wire.DeltaDiscoveryResponse.FromString(raw).resources[0].resource.value


def encode_response(
    type_url: str, nonce: str, version: str, resource_fields: Iterable[bytes], removed: Iterable[str]
) -> bytes:
    """A response of resources that ``resource_field`` made."""
    head = wire.DeltaDiscoveryResponse(
        type_url=type_url, nonce=nonce, system_version_info=version, removed_resources=removed
    )
    return b"".join((head.SerializeToString(), *resource_fields))


class ResponseReader:
    """A response whose resources are made values piece by piece: a full push of a large mesh is half a second's work,
    which the reader must be able to spread."""

    def __init__(self, payload: bytes) -> None:
        """Raises ``InvalidMessage`` if this is not a response."""
        self._message = wire.DeltaDiscoveryResponse()
        try:
            self._message.ParseFromString(payload)
        except DecodeError as error:
            raise InvalidMessage(f"DeltaDiscoveryResponse: not a protocol buffer of this type: {error}") from error
        self.type_url = self._message.type_url
        self.nonce = self._message.nonce
        self.removed: tuple[str, ...] = tuple(self._message.removed_resources)
        if self.removed:
            # Should a name be removed and updated at once, it is there.
            names = {each.name for each in self._message.resources}
            self.removed = tuple(name for name in dict.fromkeys(self.removed) if name not in names)

    def batches(self, size: int) -> Iterator[tuple[list[Resource], list[Rejected]]]:
        """The resources in order, and those that are malformed: without a name, or of another type."""
        resources = self._message.resources
        for start in range(0, len(resources), size):
            good: list[Resource] = []
            malformed: list[Rejected] = []
            for each in resources[start : start + size]:
                if not each.name:
                    malformed.append(Rejected("", "a resource without a name"))
                elif each.resource.type_url != self.type_url:
                    other = each.resource.type_url[:128]
                    malformed.append(Rejected(each.name, f"of type {other!r} in a response of another"))
                else:
                    good.append(Resource(each.name, each.version, tuple(each.aliases), each.resource.value))
            yield good, malformed


def decode_response(payload: bytes) -> Response:
    """Read a server's response, whole.

    Raises:
        InvalidMessage: not a response.
    """
    reader = ResponseReader(payload)
    batches = list(reader.batches(MAX_NAMES))
    return Response(
        type_url=reader.type_url,
        nonce=reader.nonce,
        resources=tuple(each for good, _ in batches for each in good),
        removed=reader.removed,
        malformed=tuple(each for _, malformed in batches for each in malformed),
    )


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

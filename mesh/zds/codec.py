"""ZDS messages and their bytes (``istio.workload.zds``).

A packet is one message. Everything read here comes from another process, so it is checked: the form, the presence of
the names, and that a descriptor comes with Add and with nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from mesh.errors import InvalidMessage
from mesh.wire import zds_pb2

MAXIMUM_PACKET = 1024
"""Bytes. Both sides receive into buffers of this size; a longer packet is an error, never cut."""

_MAXIMUM_ERROR_TEXT = 900


@dataclass(frozen=True, slots=True)
class WorkloadInfo:
    """By what the control plane's description of a pod is found."""

    name: str
    namespace: str
    service_account: str


@dataclass(frozen=True, slots=True)
class AddWorkload:
    """Serve this pod; its network namespace's descriptor travels beside the packet."""

    uid: str
    """The Kubernetes uid of the pod."""
    info: WorkloadInfo


@dataclass(frozen=True, slots=True)
class KeepWorkload:
    """This pod still exists; the agent holds no descriptor of it, so go on with the one you have."""

    uid: str


@dataclass(frozen=True, slots=True)
class DeleteWorkload:
    """Serve this pod no longer."""

    uid: str


@dataclass(frozen=True, slots=True)
class SnapshotSent:
    """All pods have been named: whatever was not is gone."""


Request = AddWorkload | KeepWorkload | DeleteWorkload | SnapshotSent


def encode_hello() -> bytes:
    """The first packet of a ztunnel."""
    return bytes(zds_pb2.ZdsHello(version=zds_pb2.V1).SerializeToString())


def decode_hello(packet: bytes) -> None:
    """Check a ztunnel's first packet.

    Raises:
        InvalidMessage: not a hello, or of a version this agent does not speak.
    """
    hello = zds_pb2.ZdsHello()
    try:
        hello.ParseFromString(packet)
    except DecodeError as error:
        raise InvalidMessage(f"the first ZDS packet ({len(packet)} bytes) is not a ZdsHello") from error
    if hello.version != zds_pb2.V1:
        raise InvalidMessage(
            f"ZDS version {hello.version} is not spoken here, only version {zds_pb2.V1}: use a ztunnel of this release"
        )


def encode_request(request: Request) -> bytes:
    """The packet of a request.

    Raises:
        InvalidMessage: the names are so long that the packet would pass ``MAXIMUM_PACKET``.
    """
    message = zds_pb2.WorkloadRequest()
    match request:
        case AddWorkload(uid, info):
            message.add.uid = uid
            message.add.workload_info.name = info.name
            message.add.workload_info.namespace = info.namespace
            message.add.workload_info.service_account = info.service_account
        case KeepWorkload(uid):
            message.keep.uid = uid
        case DeleteWorkload(uid):
            getattr(message, "del").uid = uid
        case SnapshotSent():
            message.snapshot_sent.SetInParent()
    packet = bytes(message.SerializeToString())
    if len(packet) > MAXIMUM_PACKET:
        raise InvalidMessage(
            f"a ZDS packet of {len(packet)} bytes passes the limit of {MAXIMUM_PACKET}: {str(request)[:200]}"
        )
    return packet


def decode_request(packet: bytes, descriptors: int) -> Request:
    """Read an agent's packet that came with this many descriptors.

    Raises:
        InvalidMessage: undecodable, incomplete, or with a number of descriptors other than its kind has.
    """
    message = zds_pb2.WorkloadRequest()
    try:
        message.ParseFromString(packet)
    except DecodeError as error:
        raise InvalidMessage(f"a ZDS packet of {len(packet)} bytes is not a WorkloadRequest") from error
    request = _request_of(message)
    wanted = 1 if isinstance(request, AddWorkload) else 0
    if descriptors != wanted:
        raise InvalidMessage(
            f"a ZDS {type(request).__name__} came with {descriptors} descriptors, it must have {wanted}: "
            "Add carries the pod's network namespace, nothing else carries anything"
        )
    return request


def _request_of(message: zds_pb2.WorkloadRequest) -> Request:
    match message.WhichOneof("payload"):
        case "add":
            info = message.add.workload_info
            if not (info.name and info.namespace and info.service_account):
                raise InvalidMessage("a ZDS Add lacks the pod's name, namespace or service account: it matches nothing")
            return AddWorkload(
                _named(message.add.uid, "Add"), WorkloadInfo(info.name, info.namespace, info.service_account)
            )
        case "keep":
            return KeepWorkload(_named(message.keep.uid, "Keep"))
        case "del":
            return DeleteWorkload(_named(getattr(message, "del").uid, "Del"))
        case "snapshot_sent":
            return SnapshotSent()
        case _:
            raise InvalidMessage("a ZDS WorkloadRequest of no known kind: the agent may be of a newer release")


def _named(uid: str, kind: str) -> str:
    if not uid:
        raise InvalidMessage(f"a ZDS {kind} without a pod uid")
    return uid


def encode_acknowledgement(error: str = "") -> bytes:
    """The packet that answers a request; an empty error means it was done. Long errors are cut to fit the packet."""
    response = zds_pb2.WorkloadResponse()
    response.ack.SetInParent()
    if error:
        response.ack.error = error.encode("utf-8", "replace")[:_MAXIMUM_ERROR_TEXT].decode("utf-8", "ignore")
    return bytes(response.SerializeToString())


def decode_acknowledgement(packet: bytes) -> str:
    """The error an acknowledgement carries; empty when the request was done.

    Raises:
        InvalidMessage: not an acknowledgement.
    """
    response = zds_pb2.WorkloadResponse()
    try:
        response.ParseFromString(packet)
    except DecodeError as error:
        raise InvalidMessage(f"a ZDS packet of {len(packet)} bytes is not a WorkloadResponse") from error
    if not response.HasField("ack"):
        raise InvalidMessage("a ZDS WorkloadResponse that acknowledges nothing")
    return str(response.ack.error)

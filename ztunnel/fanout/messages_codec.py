"""The messages between supervisor and workers, and their bytes (MessagePack, told apart by a tag).

Theory of operation. Both ends are one program of one version, so nothing here is negotiated; yet what arrives is
checked for its form, because the other process may be dying, or be made to say anything by whoever took it over. The
state of the mesh travels as the resources the control plane sent, byte for byte, after the supervisor has found them
good: each worker decodes them itself, and nobody holds a second notation of a policy. Private keys are not among the
messages, and there is no field they would fit in.

A pod's network namespace, where there is one, travels beside the message as a descriptor.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mesh.errors import InvalidMessage

MAX_MESSAGE_BYTES: Final = 64 << 20
"""Of one message; a dump of a hundred thousand connections is about half of it."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of all messages."""


# -- from the supervisor to a worker -----------------------------------------------------------------------------------


class StateUpdate(_Message, frozen=True, tag="state"):
    """Resources that changed, in the order in which the control plane sent them."""

    version: int
    """Counts up by one from update to update; a worker names the last one it has applied in what it reports."""
    type_url: str
    updated: list[tuple[str, bytes]] = []
    """Name and content."""
    removed: list[str] = []
    whole: bool = False
    """With this update, all that the control plane has said of this type is known."""


class AddPod(_Message, frozen=True, tag="add_pod"):
    """Serve this pod; the descriptor of its network namespace comes along. Answered."""

    number: int
    uid: str
    name: str
    namespace: str
    service_account: str


class DeletePod(_Message, frozen=True, tag="delete_pod"):
    """Serve this pod no longer. Answered."""

    number: int
    uid: str


class AvoidPorts(_Message, frozen=True, tag="avoid_ports"):
    """Ports that other workers listen on in a pod, because a process of the pod holds the usual ones."""

    uid: str
    ports: list[int]


class Report(_Message, frozen=True, tag="report"):
    """Tell of yourself. Answered, with what was asked for."""

    number: int
    what: str
    """``counts`` (answered after a ``Counts`` that is up to date), ``dump`` or ``readiness``."""


class SetLevels(_Message, frozen=True, tag="set_levels"):
    """Log from now on as this says; what is None stays as it is."""

    level: str | None
    access: str | None


class Certified(_Message, frozen=True, tag="certified"):
    """The certificate service's answer to a ``Certify``: a chain, or why there is none."""

    number: int
    chain: list[str] = []
    error: str = ""


class Drain(_Message, frozen=True, tag="drain"):
    """Take nothing new, let what is established end, and stop."""


# -- from a worker to the supervisor -----------------------------------------------------------------------------------


class Answer(_Message, frozen=True, tag="answer"):
    """To the message of this number."""

    number: int
    error: str = ""
    """Why it was not done; empty when it was."""
    content: bytes = b""
    """Of a report: MessagePack."""


class Certify(_Message, frozen=True, tag="certify"):
    """Have the certificate service sign this. Answered by a ``Certified``."""

    number: int
    identity: str
    request: bytes
    """A certificate signing request, PEM, for a key that does not leave the worker."""


class Admitted(_Message, frozen=True, tag="admitted"):
    """A connection between two pods of this node was admitted and delivered: the fast path may remember it."""

    version: int
    """The last update the worker had applied when it judged."""
    pod_cookie: int
    """Of the network namespace it was delivered in."""
    source: bytes
    identity: str
    destination: bytes
    port: int


class ServiceDialled(_Message, frozen=True, tag="service_dialled"):
    """A pod has dialled a service that has an endpoint on this node."""

    version: int
    pod_cookie: int
    address: bytes
    port: int


class Series(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What was added to the counters of one label set."""

    labels: int
    """Number of the set."""
    opened: int
    closed: int
    sent: int
    received: int
    failures: dict[str, int]
    """By response flag."""


Labels = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], bool]
"""Reporter, source, destination, service, mutual TLS: the fields of ``mesh.telemetry.metrics.L4Labels``."""


class Counts(_Message, frozen=True, tag="counts"):
    """What a worker has counted since its last message of this kind; sent every second, as a sign of life too."""

    labels: dict[int, Labels] = {}
    """Label sets mentioned for the first time."""
    series: list[Series] = []
    sockets: tuple[int, int] = (0, 0)
    """Open ones of the reporters ``source`` and ``destination``, in all."""
    pending: int = 0
    """Pods that could not be served yet."""


ToWorker = StateUpdate | AddPod | DeletePod | AvoidPorts | Report | SetLevels | Certified | Drain
ToSupervisor = Answer | Certify | Admitted | ServiceDialled | Counts

_encoder = msgspec.msgpack.Encoder()
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
_to_supervisor: msgspec.msgpack.Decoder[ToSupervisor] = msgspec.msgpack.Decoder(ToSupervisor)


def encode(message: ToWorker | ToSupervisor) -> bytes:
    """A message's bytes."""
    return _encoder.encode(message)


def decode_to_worker(data: bytes | bytearray) -> ToWorker:
    """What the supervisor said.

    Raises:
        InvalidMessage: not a message of the supervisor's.
    """
    try:
        return _to_worker.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidMessage(f"{len(data)} bytes from the supervisor are no message: {error}") from error


def decode_to_supervisor(data: bytes | bytearray) -> ToSupervisor:
    """What a worker said.

    Raises:
        InvalidMessage: not a message of a worker's.
    """
    try:
        return _to_supervisor.decode(data)
    except msgspec.DecodeError as error:
        raise InvalidMessage(f"{len(data)} bytes from a worker are no message: {error}") from error

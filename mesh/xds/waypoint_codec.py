"""The resources that only waypoints ask for, as bytes: destinations, and labels of workloads.

The payload is JSON of the frozen model itself, decoded strictly by its types: one schema, and an error that names the
field. Keys come in the order of the model's fields, so equal values give equal bytes and a hash of them is a version;
what does not come in that very form is of another version of the model and refused.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from mesh.errors import InvalidMessage
from mesh.model.waypoint import Destination, WorkloadLabels

MAX_RESOURCE_BYTES = 16 * 1024 * 1024
"""Of one resource: some 20,000 routes."""

Value = TypeVar("Value")


def encode_destination(value: Destination) -> bytes:
    """The resource's bytes."""
    return msgspec.json.encode(value)


def decode_destination(payload: bytes) -> Destination:
    """Read a destination.

    Raises:
        InvalidMessage: it is not one; the text names the field.
    """
    return _decode(payload, Destination, "destination")


def encode_labels(value: WorkloadLabels) -> bytes:
    """The resource's bytes."""
    return msgspec.json.encode(value)


def decode_labels(payload: bytes) -> WorkloadLabels:
    """Read labels. Raises as :func:`decode_destination`."""
    return _decode(payload, WorkloadLabels, "labels")


def _decode(payload: bytes, kind: type[Value], what: str) -> Value:
    if len(payload) > MAX_RESOURCE_BYTES:
        raise InvalidMessage(f"{what} of {len(payload)} bytes: more than {MAX_RESOURCE_BYTES} are not read")
    try:
        value = msgspec.json.decode(payload, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidMessage(f"{what}: {error}") from error
    if msgspec.json.encode(value) != payload:
        # A field that is not known here may be what denies: half a policy is worse than the former one.
        raise InvalidMessage(f"{what}: not in the form that this version writes: the sender knows other fields")
    return value

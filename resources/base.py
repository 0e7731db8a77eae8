"""What every structure of the Kubernetes API has in common here.

Fields carry the API's names in camel case. Unknown fields are refused, so that a misspelt one is an error and not a
silent nothing; that is why structures list every field the API server accepts, also those the mesh never looks at:
these are typed ``Any`` and written back as they came. ``None`` and an absent field are the same thing, as in the API.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import field

Raw = Any
"""A part of an object that the mesh does not read and keeps as it is."""

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Fields(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel", gc=False
):
    """A structure of the API: frozen, camel case, unknown fields refused, defaults not written.

    The garbage collector leaves them out: they are made of text and of one another, from the leaves up, so that no
    cycle can be, and there are a hundred thousand of them in a large cluster.
    """


class OwnerReference(Fields, frozen=True):
    """The object that made this one."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Fields, frozen=True):
    """Name, labels, annotations and the API server's book-keeping."""

    name: str = ""
    generate_name: str | None = None
    namespace: str = ""
    """Empty for cluster-scoped kinds only; decoding fills ``default`` in for the others."""
    self_link: str | None = None
    uid: str = ""
    resource_version: str = ""
    generation: int | None = None
    creation_timestamp: str | None = None
    """RFC 3339 in UTC, which sorts as text."""
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()
    managed_fields: Raw = None


class Condition(Fields, frozen=True):
    """One entry of ``status.conditions``, in the union of the shapes the kinds use."""

    type: str
    status: str
    """``True``, ``False`` or ``Unknown``."""
    observed_generation: int | None = None
    last_probe_time: str | None = None
    last_transition_time: str | None = None
    reason: str = ""
    message: str = ""


class ObjectReference(Fields, frozen=True):
    """A reference to another object."""

    api_version: str | None = None
    kind: str | None = None
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    field_path: str | None = None

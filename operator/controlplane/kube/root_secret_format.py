"""Authorities as Secrets hold them: one self-made, with what its rotation needs; one somebody gave; and what is kept of
given ones, so that they can follow one another."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from controlplane.ca.authority import Authority, read_authority
from controlplane.ca.rotation import Retired, RootRecord
from controlplane.ca.succession import Signer, Succession, Trusted
from mesh.errors import ConfigurationError

ROTATE_ANNOTATION = "ambimesh.dev/rotate"
"""Any text that was not used before has the root replaced."""
AT_ONCE_ANNOTATION = "ambimesh.dev/replace-at-once"
"""``true`` at a given authority has it sign although not everybody trusts it yet."""
_GIVEN = (
    ("tls.crt", "tls.key", "ca.crt"),
    # The form that istiod takes, in a Secret called ``cacerts``.
    ("cert-chain.pem", "ca-key.pem", "root-cert.pem"),
)


class _RetiredRoot(msgspec.Struct, frozen=True):
    certificate: str
    until: datetime


class _State(msgspec.Struct, frozen=True):
    next_since: datetime | None = None
    retired: tuple[_RetiredRoot, ...] = ()
    followed: str = ""


class _TrustedRoot(msgspec.Struct, frozen=True):
    certificate: str
    since: datetime
    until: datetime | None = None


class _Kept(msgspec.Struct, frozen=True):
    trusted: tuple[_TrustedRoot, ...] = ()


def secret_of(record: RootRecord, name: str, namespace: str, resource_version: str = "") -> dict[str, Any]:
    """The Secret that keeps a record."""
    state = _State(
        next_since=record.next_since,
        retired=tuple(_RetiredRoot(one.certificate.decode(), one.until) for one in record.retired),
        followed=record.followed,
    )
    data = {
        "tls.crt": record.certificate,
        "tls.key": record.key,
        "ca.crt": record.bundle,
        "sessions": record.sessions,
        "next.crt": record.next_certificate,
        "next.key": record.next_key,
        "state.json": msgspec.json.encode(state),
    }
    return _secret(data, name, namespace, resource_version)


def read_record(secret: Mapping[str, Any]) -> RootRecord:
    """What a Secret keeps.

    Raises:
        ConfigurationError: it is not one of ours, or broken.
    """
    place = _place(secret)
    data = _data(secret, place)
    try:
        state = msgspec.json.decode(data.get("state.json", b"{}"), type=_State)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{place}: state.json is broken: {error}") from error
    missing = [key for key in ("tls.crt", "tls.key", "sessions") if key not in data]
    if missing:
        raise ConfigurationError(
            f"{place} lacks {', '.join(missing)}: it is not the root this operator keeps; restore it, or delete it to "
            "have a new root made, which no present certificate will be trusted by"
        )
    return RootRecord(
        certificate=data["tls.crt"],
        key=data["tls.key"],
        sessions=data["sessions"],
        next_certificate=data.get("next.crt", b""),
        next_key=data.get("next.key", b""),
        next_since=state.next_since,
        retired=tuple(Retired(one.certificate.encode(), one.until) for one in state.retired),
        followed=state.followed,
    )


def authority_of(record: RootRecord, place: str) -> Authority:
    """What signs by a record, with all roots that it says to trust.

    Raises:
        ConfigurationError: its parts do not belong together, or have expired.
    """
    places = (f"{place} (tls.crt)", f"{place} (tls.key)", f"{place} (ca.crt)")
    signing = read_authority(record.certificate, record.key, record.certificate, places)
    return Authority(signing.key, signing.certificate, (), record.bundle)


def read_given(secret: Mapping[str, Any]) -> Signer:
    """An authority somebody else made: ``tls.crt``, ``tls.key`` and ``ca.crt``, or istiod's names for the same.

    Args:
        secret: as the API has it.

    Raises:
        ConfigurationError: something is missing, expired, or does not belong together.
    """
    place = _place(secret)
    data = _data(secret, place)
    for names in _GIVEN:
        if all(name in data for name in names):
            chain, key, roots = names
            signer = Signer(data[chain], data[key], data[roots])
            read_authority(
                signer.chain, signer.key, signer.roots, (f"{place} ({chain})", f"{place} ({key})", f"{place} ({roots})")
            )
            return signer
    raise ConfigurationError(f"{place} must have {' and '.join(', '.join(names) for names in _GIVEN[:1])}")


def is_urgent(secret: Mapping[str, Any]) -> bool:
    """Whether a given authority is to sign at once."""
    return ((secret.get("metadata") or {}).get("annotations") or {}).get(AT_ONCE_ANNOTATION) == "true"


def kept_secret_of(
    succession: Succession, sessions: bytes, name: str, namespace: str, resource_version: str = ""
) -> dict[str, Any]:
    """The Secret that keeps what is known of given authorities."""
    signer = succession.signer
    trusted = tuple(_TrustedRoot(one.certificate.decode(), one.since, one.until) for one in succession.trusted)
    data = {
        "tls.crt": signer.chain,
        "tls.key": signer.key,
        "ca.crt": signer.roots,
        "sessions": sessions,
        "state.json": msgspec.json.encode(_Kept(trusted=trusted)),
    }
    return _secret(data, name, namespace, resource_version)


def read_kept(secret: Mapping[str, Any]) -> tuple[Succession, bytes]:
    """What such a Secret keeps, and what replicas share.

    Raises:
        ConfigurationError: it is not one of ours, or broken.
    """
    place = _place(secret)
    data = _data(secret, place)
    missing = [key for key in ("tls.crt", "tls.key", "ca.crt", "sessions", "state.json") if not data.get(key)]
    if missing:
        raise ConfigurationError(f"{place} lacks {', '.join(missing)}: restore it, or delete it to begin anew")
    try:
        state = msgspec.json.decode(data["state.json"], type=_Kept)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{place}: state.json is broken: {error}") from error
    trusted = tuple(Trusted(one.certificate.encode(), one.since, one.until) for one in state.trusted)
    return Succession(Signer(data["tls.crt"], data["tls.key"], data["ca.crt"]), trusted), data["sessions"]


def authority_of_succession(succession: Succession, place: str) -> Authority:
    """What signs by a succession, with all roots that it says to trust.

    Raises:
        ConfigurationError: its parts do not belong together, or have expired.
    """
    signer = succession.signer
    authority = read_authority(
        signer.chain, signer.key, signer.roots, (f"{place} (tls.crt)", f"{place} (tls.key)", f"{place} (ca.crt)")
    )
    return Authority(authority.key, authority.certificate, authority.intermediates, succession.bundle)


def signer_of(record: RootRecord) -> Signer:
    """A self-made root as what signs."""
    return Signer(record.certificate, record.key, record.bundle)


def _secret(data: Mapping[str, bytes], name: str, namespace: str, resource_version: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if resource_version:
        metadata["resourceVersion"] = resource_version
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": metadata,
        "data": {key: base64.b64encode(value).decode() for key, value in data.items() if value},
    }


def _place(secret: Mapping[str, Any]) -> str:
    metadata = secret.get("metadata") or {}
    return f"Secret {metadata.get('namespace', '')}/{metadata.get('name', '')}"


def _data(secret: Mapping[str, Any], place: str) -> dict[str, bytes]:
    try:
        return {key: base64.b64decode(value, validate=True) for key, value in (secret.get("data") or {}).items()}
    except (binascii.Error, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"{place} holds data that is not base64: {error}") from error

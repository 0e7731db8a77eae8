"""What a request's authorization is decided by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mesh.addresses import IpBytes
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.path import without_query


class VerifiedToken:
    """What a JWT says, after its signature and times have been found good."""

    __slots__ = ("audiences", "claims", "presenter", "principal")

    def __init__(self, claims: Mapping[str, Any]) -> None:
        """Take a payload apart: all of it was checked."""
        self.claims = claims
        issuer, subject = claims.get("iss"), claims.get("sub")
        self.principal: bytes | None = None
        """``issuer/subject``; None if it lacks one of them."""
        if isinstance(issuer, str) and isinstance(subject, str) and issuer and subject:
            self.principal = f"{issuer}/{subject}".encode(errors="replace")
        audience = claims.get("aud")
        listed = [audience] if isinstance(audience, str) else audience if isinstance(audience, list) else []
        self.audiences = tuple(item.encode(errors="replace") for item in listed if isinstance(item, str))
        presenter = claims.get("azp")
        self.presenter = presenter.encode(errors="replace") if isinstance(presenter, str) else None

    def claim(self, name: str) -> list[bytes]:
        """The texts of a claim: one, those of a list, or none.

        Args:
            name: a claim, or the path to a nested one joined by ``.``; a claim of that very name comes first.
        """
        value = self.claims.get(name)
        if value is None and "." in name:
            value = self.claims
            for part in name.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
        return claim_texts(value)


def claim_texts(value: object) -> list[bytes]:
    """A claim's value as texts: numbers and truth values as JSON writes them, objects not at all."""
    items = value if isinstance(value, list) else [value]
    texts = []
    for item in items:
        if isinstance(item, str):
            texts.append(item.encode(errors="replace"))
        elif isinstance(item, bool):
            texts.append(b"true" if item else b"false")
        elif isinstance(item, int):
            texts.append(b"%d" % item)
    return texts


class Peer:
    """A client as policies see it: only what was proven. Made once per connection."""

    __slots__ = ("account", "destination", "namespace", "port", "principal", "source", "trust_domain")

    def __init__(self, client: Client) -> None:
        """Turn a client's identity and addresses into what is compared."""
        identity = client.identity
        self.principal: bytes | None = None
        self.namespace: bytes | None = None
        self.account: bytes | None = None
        self.trust_domain: bytes | None = None
        if identity is not None:
            self.principal = identity.principal.encode()
            self.namespace = identity.namespace.encode()
            self.account = f"{identity.namespace}/{identity.service_account}".encode()
            self.trust_domain = identity.trust_domain.encode()
        self.source = _number(client.address.ip)
        self.destination = _number(client.destination.ip)
        self.port = client.destination.port


class Subject:
    """One request before its policies."""

    __slots__ = ("head", "path", "peer", "remote", "server_name", "token")

    def __init__(
        self,
        peer: Peer,
        head: RequestHead,
        token: VerifiedToken | None = None,
        remote: IpBytes | None = None,
        server_name: bytes | None = None,
    ) -> None:
        """Put together what is known.

        Args:
            peer: whose request it is.
            head: its path normalised.
            token: the JWT that was verified, if any.
            remote: the original client, from ``x-forwarded-for`` as far as that is trusted; None: the peer.
            server_name: of TLS that the waypoint itself has ended.
        """
        self.peer = peer
        self.head = head
        self.path = without_query(head.path)
        self.token = token
        self.remote = peer.source if remote is None else _number(remote)
        self.server_name = server_name


def _number(ip: IpBytes) -> int:
    return int.from_bytes(ip, "big")

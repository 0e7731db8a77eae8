"""What an external authorizer is asked and answers: Envoy's ``envoy.service.auth.v3.Authorization`` over gRPC, and its
HTTP form.

In the HTTP form the request itself is repeated to the authorizer, with the headers that are to be included and as much
of the body as it asks for; status 200 is consent, another one below 500 becomes the client's answer.

An authorizer may change a request's headers, but nothing that frames the message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from mesh.addresses import SocketAddress, format_ip
from mesh.errors import InvalidMessage
from mesh.identity import SpiffeId
from mesh.model.request_policy import ExternalAuthorizer
from mesh.wire import external_authorization_pb2 as wire
from waypoint.client import Client
from waypoint.http.message import Headers, RequestHead
from waypoint.routing.text import header_value
from waypoint.telemetry.record import HttpVersion

METHOD: Final = b"/envoy.service.auth.v3.Authorization/Check"
PARTIAL: Final = b"x-envoy-auth-partial-body"
"""Tells an authorizer that is shown bodies whether this one goes on; Envoy's."""
MAX_ANSWER_BYTES: Final = 64 << 10
_MAX_HEADERS: Final = 100
_NEVER: Final = frozenset(
    {
        *(b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection"),
        *(b"te", b"trailer", b"upgrade", b"host"),
    }
)
_TOKEN: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")

Fields: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """The request may go on, with these changes."""

    set: Fields = ()
    add: Fields = ()
    add_if_absent: Fields = ()
    remove: frozenset[bytes] = frozenset()
    response_set: Fields = ()
    """For the client's answer, in place of the application's headers of these names."""
    response_add: Fields = ()

    @property
    def changes_answer(self) -> bool:
        """Whether there is anything to be said to the client."""
        return bool(self.response_set or self.response_add)

    def apply_to_answer(self, headers: Headers) -> None:
        """Change the answer's headers in place."""
        gone = {name for name, _ in self.response_set}
        headers[:] = [field for field in headers if field[0] not in gone]
        headers += [*self.response_set, *self.response_add]

    def apply(self, headers: Headers) -> None:
        """Change the request's headers in place."""
        gone = self.remove | {name for name, _ in self.set}
        if gone:
            headers[:] = [field for field in headers if field[0] not in gone]
        headers += [*self.set, *self.add]
        if self.add_if_absent:
            present = {name for name, _ in headers}
            headers += [field for field in self.add_if_absent if field[0] not in present]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The client is answered this."""

    status: int
    headers: Fields = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownBody:
    """What an authorizer is shown of a body."""

    data: bytes = b""
    partial: bool = False
    """It goes on."""


NO_BODY: Final = ShownBody()


@lru_cache(maxsize=256)
def _names(patterns: tuple[str, ...]) -> Callable[[bytes], bool]:
    """Whether a header's name, in lower case, is one of those that a configuration lists."""
    listed = [pattern.lower().encode(errors="replace") for pattern in patterns]
    exact = frozenset(listed)
    prefixes = tuple(pattern[:-1] for pattern in listed if pattern.endswith(b"*"))
    suffixes = tuple(pattern[1:] for pattern in listed if pattern.startswith(b"*"))
    if not prefixes and not suffixes:
        return exact.__contains__
    return lambda name: name in exact or name.startswith(prefixes) or name.endswith(suffixes)


def encode_check(
    head: RequestHead,
    client: Client,
    destination: SpiffeId | None,
    version: HttpVersion,
    request_id: bytes,
    authorizer: ExternalAuthorizer,
    body: ShownBody = NO_BODY,
) -> bytes:
    """A ``CheckRequest``.

    Args:
        head: the request.
        client: whose it is.
        destination: the waypoint's own identity.
        version: the client's.
        request_id: ``x-request-id``.
        authorizer: with ``include_headers`` only those are told, without all of them.
        body: as much of it as is to be sent along.
    """
    request = wire.CheckRequest()
    attributes = request.attributes
    _set_peer(attributes.source, client.address, client.identity)
    _set_peer(attributes.destination, client.destination, destination)
    http = attributes.request.http
    http.id = request_id.decode(errors="replace")
    http.method = head.method.decode(errors="replace")
    http.path = head.path.decode(errors="replace")
    http.host = head.authority.decode(errors="replace")
    http.scheme = head.scheme.decode(errors="replace")
    http.protocol = version.value
    length = header_value(head.headers, b"content-length")
    http.size = int(length) if length is not None and length.isdigit() and len(length) < 19 else -1
    if authorizer.body_as_bytes:
        http.raw_body = body.data
    else:
        http.body = body.data.decode(errors="replace")
    included = _names(authorizer.include_headers or ("*",))
    for name in {name for name, _ in head.headers if included(name)}:
        value = header_value(head.headers, name) or b""
        http.headers[name.decode(errors="replace")] = value.decode(errors="replace")
    if authorizer.max_body_bytes:
        http.headers[PARTIAL.decode()] = "true" if body.partial else "false"
    return request.SerializeToString()


def _set_peer(peer: wire.AttributeContext.Peer, address: SocketAddress, identity: SpiffeId | None) -> None:
    peer.address.socket_address.address = format_ip(address.ip)
    peer.address.socket_address.port_value = address.port
    if identity is not None:
        peer.principal = str(identity)


def decode_check(payload: bytes) -> Consent | Refusal:
    """The answer to ``encode_check``.

    Raises:
        InvalidMessage: no ``CheckResponse``.
    """
    response = wire.CheckResponse()
    try:
        response.ParseFromString(payload)
    except DecodeError as error:
        raise InvalidMessage("the authorizer's answer is no CheckResponse") from error
    if response.status.code == 0:
        ok = response.ok_response
        changes: dict[str, Headers] = {"set": [], "add": [], "add_if_absent": []}
        for option in ok.headers[:_MAX_HEADERS]:
            field = _field(option)
            if field is not None:
                changes[_how(option)].append(field)
        return Consent(
            set=tuple(changes["set"]),
            add=tuple(changes["add"]),
            add_if_absent=tuple(changes["add_if_absent"]),
            remove=frozenset(name.lower().encode() for name in ok.headers_to_remove) - _NEVER,
            response_add=_fields(ok.response_headers_to_add),
        )
    denied = response.denied_response
    status = denied.status.code if 200 <= denied.status.code <= 599 else 403
    return Refusal(status=status, headers=_fields(denied.headers), body=denied.body.encode()[:MAX_ANSWER_BYTES])


def _how(option: wire.HeaderValueOption) -> str:
    # Envoy's own default, where neither field is set, is to overwrite.
    if option.HasField("append"):
        return "add" if option.append.value else "set"
    match option.append_action:
        case wire.HeaderValueOption.ADD_IF_ABSENT:
            return "add_if_absent"
        case _:
            return "set"


def _fields(options: Sequence[wire.HeaderValueOption]) -> Fields:
    return tuple(field for option in options[:_MAX_HEADERS] if (field := _field(option)) is not None)


def _field(option: wire.HeaderValueOption) -> tuple[bytes, bytes] | None:
    header = option.header
    return _safe(header.key.lower().encode(), header.raw_value or header.value.encode())


def _safe(name: bytes, value: bytes) -> tuple[bytes, bytes] | None:
    if not name or not _TOKEN.issuperset(name) or name in _NEVER:
        return None
    if any((byte < 32 and byte != 9) or byte == 127 for byte in value):
        return None
    return name, value


def encode_http_check(head: RequestHead, authorizer: ExternalAuthorizer, body: ShownBody = NO_BODY) -> RequestHead:
    """The HTTP form's question: the request's own method, host and path, and the headers that are to be included."""
    included = _names((*authorizer.include_headers, "authorization"))
    additional = [
        field for name, value in authorizer.additional_headers if (field := _safe(name.encode(), value.encode()))
    ]
    replaced = {name for name, _ in additional} | {PARTIAL}
    headers = [
        field for field in head.headers if included(field[0]) and field[0] not in _NEVER and field[0] not in replaced
    ]
    headers += additional
    if authorizer.max_body_bytes:
        headers.append((PARTIAL, b"true" if body.partial else b"false"))
    headers.append((b"content-length", b"%d" % len(body.data)))
    path = authorizer.path_prefix.encode() + head.path
    return RequestHead(
        method=head.method, path=path, authority=head.authority, scheme=head.scheme, headers=headers
    )


def decode_http_check(
    status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, authorizer: ExternalAuthorizer
) -> Consent | Refusal | None:
    """The answer of the HTTP form; None: the authorizer has failed (5xx)."""
    if status >= 500:
        return None
    if status == 200:
        return Consent(
            set=_named(headers, authorizer.headers_to_upstream),
            response_set=_named(headers, authorizer.headers_to_downstream_on_allow),
        )
    wanted = authorizer.headers_to_downstream
    # Without these a browser could not follow, or would not ask for a password.
    always = ("location", "www-authenticate", "content-type")
    return Refusal(status=status, headers=_named(headers, (*wanted, *always) if wanted else ("*",)), body=body)


def _named(headers: Iterable[tuple[bytes, bytes]], patterns: tuple[str, ...]) -> Fields:
    wanted = _names(patterns)
    safe = [_safe(name.lower(), value) for name, value in headers if wanted(name.lower())]
    return tuple(field for field in safe[:_MAX_HEADERS] if field is not None)

"""JWTs of requests: found, verified, and turned into what policies and upstreams see (RFC 7519).

Theory of operation. A request may carry tokens where the rules of its destination look for them. Every token found must
be good, or the request is answered 401; one without any passes, and policies may demand one. The token's issuer chooses
the rule; the rule's key set chooses the algorithms (``waypoint.security.key_set_codec``), so a token cannot.

A signature costs fifty microseconds or more to verify, which is more than all else that happens to a request. Clients
send the same token again and again, so good ones are kept, whole, with the key set that has verified them: another key
set, or another byte of the token, is another question. Times are looked at for every request.

Keys may have to be fetched first. Nothing waits here: the answer is then ``KeysWanted``, and whoever asked comes back
when the keys are there, or refuses.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec

from mesh.errors import InvalidValue
from mesh.model.request_policy import JwtRule, RequestAuthentication, TokenSource
from waypoint.http.message import Headers, RequestHead
from waypoint.routing.header_change import header_name
from waypoint.routing.query import parameter
from waypoint.routing.session import cookie
from waypoint.routing.text import encoded, header_value
from waypoint.security.key_set_codec import DISCOVERY_PATH, KeySet, decode_key_set
from waypoint.security.subject import VerifiedToken

MAX_TOKEN_BYTES: Final = 16 << 10
LEEWAY_SECONDS: Final = 60.0
"""How far the issuer's clock may be from ours; Envoy's value."""
_MAX_TRIED: Final = 8
_KEPT: Final = 512

_signatures = jwt.PyJWS()


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """Answer 401."""

    reason: str
    """For the answer's body and the access log, without anything that the token says."""


@dataclass(frozen=True, slots=True)
class KeysWanted:
    """A key set must be fetched, or fetched again, before the token can be judged."""

    uri: str
    timeout_seconds: float
    known: KeySet | None = None
    """There are keys, but not the one that the token names; None: there are none."""


KeyLookup = Callable[[str], KeySet | None]
"""The keys of an address as they are known now."""


class _Rule:
    __slots__ = ("audiences", "claims", "fixed", "payload_header", "problem", "rule", "uri")

    def __init__(self, rule: JwtRule) -> None:
        self.rule = rule
        self.audiences = frozenset(rule.audiences)
        self.claims = [(claim, header_name(header)) for claim, header in rule.claims_to_headers]
        self.payload_header = header_name(rule.output_payload_header) if rule.output_payload_header else b""
        self.fixed: KeySet | None = None
        self.problem = ""
        self.uri = rule.jwks_uri or rule.issuer.rstrip("/") + DISCOVERY_PATH
        try:
            if rule.jwks is not None:
                self.fixed = decode_key_set(encoded(rule.jwks))
            elif not self.uri.startswith(("http://", "https://")):
                self.problem = "neither a key set nor an address of one, and the issuer is no address either"
        except InvalidValue as error:
            self.problem = str(error)


@dataclass(slots=True, eq=False)
class _Source:
    """One place where tokens are looked for, and the rules that look there."""

    source: TokenSource
    header: bytes
    prefix: bytes
    query: bytes
    cookie: bytes
    rules: dict[str, _Rule]

    def find(self, head: RequestHead) -> bytes | None:
        """The token, if there is one."""
        if self.header:
            value = header_value(head.headers, self.header)
            if value is None or value[: len(self.prefix)].lower() != self.prefix:
                return None
            return value[len(self.prefix) :].strip()
        if self.query:
            return parameter(head.path, self.query)
        return cookie(head.headers, self.cookie)

    def strip(self, head: RequestHead) -> None:
        """Take the token out of the request, so that the upstream does not see it; one in a cookie stays."""
        if self.header:
            head.headers[:] = [field for field in head.headers if field[0] != self.header]
        elif self.query:
            path, _, query = head.path.partition(b"?")
            kept = [pair for pair in query.split(b"&") if parameter(b"?" + pair, self.query) is None]
            head.path = path + b"?" + b"&".join(kept) if kept else path


class TokenVerifier:
    """A destination's RequestAuthentications, compiled."""

    __slots__ = ("_kept", "_keys", "_own_headers", "_sources", "empty", "problems")

    def __init__(self, authentications: Iterable[RequestAuthentication], keys: KeyLookup) -> None:
        """Compile.

        Args:
            authentications: of one destination; of several rules for one issuer at one place the first counts.
            keys: where fetched keys are found.

        Raises:
            ConfigurationError: a header that cannot be one.
        """
        self._keys = keys
        self._kept: OrderedDict[bytes, tuple[KeySet, VerifiedToken, _Rule]] = OrderedDict()
        rules = [_Rule(rule) for authentication in authentications for rule in authentication.rules]
        places: dict[TokenSource, _Source] = {}
        for rule in rules:
            for source in rule.rule.sources:
                place = places.get(source)
                if place is None:
                    place = places[source] = _compile_source(source)
                place.rules.setdefault(rule.rule.issuer, rule)
        self._sources = list(places.values())
        own = {header for rule in rules for _, header in rule.claims}
        self._own_headers = frozenset(own | {rule.payload_header for rule in rules if rule.payload_header})
        self.empty = not rules
        """Nothing is verified."""
        self.problems = tuple(f"issuer {rule.rule.issuer}: {rule.problem}" for rule in rules if rule.problem)

    def uris(self) -> frozenset[str]:
        """Addresses of key sets, to be fetched ahead of the first token."""
        rules = [rule for source in self._sources for rule in source.rules.values()]
        return frozenset(rule.uri for rule in rules if rule.fixed is None and not rule.problem)

    def verify(self, head: RequestHead, now: float) -> VerifiedToken | TokenRefused | KeysWanted | None:
        """Judge a request's tokens, and change its headers as the rules say.

        Args:
            head: the request; changed only when the answer is a token or None.
            now: seconds since 1970.

        Returns:
            The first token, if all that were found are good; None if there is none.
        """
        found: list[tuple[_Source, _Rule, VerifiedToken, bytes]] = []
        for source in self._sources:
            token = source.find(head)
            if token is None:
                continue
            judged = self._judge(source.rules, token, now)
            if not isinstance(judged, tuple):
                return judged
            found.append((source, *judged, token))
        if self._own_headers:
            # Also without a token: nobody but an issuer says what stands in these.
            own = self._own_headers
            head.headers[:] = [field for field in head.headers if field[0] not in own]
        for source, rule, verified, token in found:
            if not rule.rule.forward_token:
                source.strip(head)
            _add_headers(head.headers, rule, verified, token)
        return found[0][2] if found else None

    def _judge(
        self, rules: dict[str, _Rule], token: bytes, now: float
    ) -> tuple[_Rule, VerifiedToken] | TokenRefused | KeysWanted:
        kept = self._kept.get(token)
        if kept is not None:
            keys, verified, rule = kept
            if rules.get(rule.rule.issuer) is rule and keys is self._keys_of(rule):
                self._kept.move_to_end(token)
                return _check_claims(rule, verified, now) or (rule, verified)
        if len(token) > MAX_TOKEN_BYTES:
            return TokenRefused("Jwt is too large")
        return self._judge_unknown(rules, token, now)

    def _judge_unknown(
        self, rules: dict[str, _Rule], token: bytes, now: float
    ) -> tuple[_Rule, VerifiedToken] | TokenRefused | KeysWanted:
        parts = token.split(b".")
        if len(parts) != 3:
            return TokenRefused("Jwt is not in the form of Header.Payload.Signature")
        header, payload = _json_part(parts[0]), _json_part(parts[1])
        if header is None or payload is None:
            return TokenRefused("Jwt header or payload is an invalid JSON or Base64")
        issuer = payload.get("iss")
        rule = rules.get(issuer) if isinstance(issuer, str) else None
        if rule is None:
            return TokenRefused("Jwt issuer is not configured")
        if rule.problem:
            return TokenRefused("Jwks of the issuer is not usable")
        uri, timeout = rule.uri, rule.rule.timeout_seconds
        keys = self._keys_of(rule)
        if keys is None:
            return KeysWanted(uri, timeout)
        claims = _check_signature(token, header, keys)
        if claims is None:
            if rule.fixed is None and _names_unknown_key(header, keys):
                return KeysWanted(uri, timeout, keys)
            return TokenRefused("Jwt verification fails")
        verified = VerifiedToken(claims)
        self._kept[token] = (keys, verified, rule)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return _check_claims(rule, verified, now) or (rule, verified)

    def _keys_of(self, rule: _Rule) -> KeySet | None:
        return rule.fixed if rule.fixed is not None else self._keys(rule.uri)


def _compile_source(source: TokenSource) -> _Source:
    header = header_name(source.header) if source.header else b""
    query = encoded(source.query or "")
    prefix = encoded(source.prefix).lower() if header else b""
    return _Source(source, header, prefix, query, encoded(source.cookie or ""), {})


def _json_part(part: bytes) -> dict[str, Any] | None:
    try:
        content = msgspec.json.decode(jwt.utils.base64url_decode(part))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _check_signature(token: bytes, header: dict[str, Any], keys: KeySet) -> dict[str, Any] | None:
    """The payload, if one of the keys has signed it."""
    algorithm, key_id = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or "crit" in header or not isinstance(key_id, str | None):
        return None
    for key in keys.candidates(key_id, algorithm)[:_MAX_TRIED]:
        try:
            payload = _signatures.decode(token, key.key, algorithms=[algorithm])
            content = msgspec.json.decode(payload)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            continue
        return content if isinstance(content, dict) else None
    return None


def _names_unknown_key(header: dict[str, Any], keys: KeySet) -> bool:
    key_id = header.get("kid")
    return isinstance(key_id, str) and all(key.key_id != key_id for key in keys.keys)


def _check_claims(rule: _Rule, token: VerifiedToken, now: float) -> TokenRefused | None:
    claims = token.claims
    for name in ("exp", "nbf"):
        time = claims.get(name)
        if time is None:
            continue
        if isinstance(time, bool) or not isinstance(time, int | float):
            return TokenRefused(f"Jwt {name} is not a time")
        if name == "exp" and now > time + LEEWAY_SECONDS:
            return TokenRefused("Jwt is expired")
        if name == "nbf" and now < time - LEEWAY_SECONDS:
            return TokenRefused("Jwt not yet valid")
    if rule.audiences:
        named = {audience.decode() for audience in token.audiences}
        if not named & rule.audiences:
            return TokenRefused("Audiences in Jwt are not allowed")
    return None


def _add_headers(headers: Headers, rule: _Rule, verified: VerifiedToken, token: bytes) -> None:
    for claim, name in rule.claims:
        texts = verified.claim(claim)
        value = b",".join(texts)
        # A claim is the issuer's text, a header's value must not end its line.
        if texts and not any(byte < 32 or byte == 127 for byte in value):
            headers.append((name, value))
    if rule.payload_header:
        headers.append((rule.payload_header, token.split(b".")[1]))


CHALLENGE: Final[Headers] = [(b"www-authenticate", b'Bearer realm="ambimesh", error="invalid_token"')]
"""Of the 401 that answers a bad token (RFC 6750 section 3)."""

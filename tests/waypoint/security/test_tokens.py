"""JWTs: good ones, and the list of bad ones."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigurationError, InvalidValue
from mesh.model.request_policy import JwtRule, RequestAuthentication, TokenSource
from waypoint.http.message import RequestHead
from waypoint.security.key_set_codec import MAX_KEYS, KeySet, decode_discovery, decode_key_set
from waypoint.security.subject import VerifiedToken
from waypoint.security.tokens import MAX_TOKEN_BYTES, KeysWanted, TokenRefused, TokenVerifier

NOW = 1_800_000_000.0
ISSUER = "https://issuer.example"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
_CLAIMS: dict[str, Any] = {"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": NOW + 60}


def _jwk(key: Any, algorithm: str, **fields: Any) -> dict[str, Any]:
    maker = jwt.get_algorithm_by_name(algorithm)
    return {**json.loads(maker.to_jwk(key.public_key())), "use": "sig", **fields}


DOCUMENT = json.dumps(
    {
        "keys": [
            _jwk(RSA_KEY, "RS256", kid="r", alg="RS256"),
            _jwk(EC_KEY, "ES256", kid="e"),
            _jwk(ED_KEY, "EdDSA", kid="d"),
        ]
    }
)


def _token(claims: dict[str, Any] | None = None, key: Any = EC_KEY, algorithm: str = "ES256", kid: str = "e") -> bytes:
    return jwt.encode({**_CLAIMS, **(claims or {})}, key, algorithm=algorithm, headers={"kid": kid}).encode()


def _rule(**fields: Any) -> JwtRule:
    return JwtRule(**{"issuer": ISSUER, "jwks": DOCUMENT, **fields})


def _no_keys(uri: str) -> KeySet | None:
    return None


def _verifier(*rules: JwtRule) -> TokenVerifier:
    return TokenVerifier([RequestAuthentication(key="ns/a", rules=rules or (_rule(),))], _no_keys)


def _head(token: bytes | None, path: bytes = b"/", prefix: bytes = b"Bearer ") -> RequestHead:
    headers = [] if token is None else [(b"authorization", prefix + token)]
    return RequestHead(method=b"GET", path=path, authority=b"echo", headers=[*headers, (b"x", b"y")])


def _part(content: object) -> bytes:
    return urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"), [(RSA_KEY, "RS256", "r"), (EC_KEY, "ES256", "e"), (ED_KEY, "EdDSA", "d")]
)
def test_good_tokens(key: Any, algorithm: str, kid: str) -> None:
    head = _head(_token(None, key, algorithm, kid))
    token = _verifier().verify(head, NOW)
    assert isinstance(token, VerifiedToken)
    assert token.principal == b"https://issuer.example/alice"
    assert head.headers == [(b"x", b"y")], "the upstream does not see the token"


def test_a_request_without_token_passes() -> None:
    assert _verifier().verify(_head(None), NOW) is None
    assert _verifier().verify(_head(b"dXNlcjpwYXNz", prefix=b"Basic "), NOW) is None
    assert TokenVerifier([], _no_keys).empty


def _confused() -> bytes:
    """HMAC with the public RSA key as the secret: the classic confusion. pyjwt refuses to make one."""
    import hashlib
    import hmac

    secret = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = _part({"alg": "HS256", "typ": "JWT", "kid": "r"}) + b"." + _part(_CLAIMS)
    return signed + b"." + urlsafe_b64encode(hmac.digest(secret, signed, hashlib.sha256)).rstrip(b"=")


_GOOD = _token()
_BAD: dict[str, bytes] = {
    "alg none": _part({"alg": "none"}) + b"." + _part(_CLAIMS) + b".",
    "alg None": _part({"alg": "None", "kid": "e"}) + b"." + _part(_CLAIMS) + b".",
    "key confusion": _confused(),
    "algorithm of another key": _token(None, RSA_KEY, "RS384", "r"),
    "the key's own alg": _token(None, RSA_KEY, "PS256", "r"),
    "another curve": _token(None, ec.generate_private_key(ec.SECP384R1()), "ES384", "e"),
    "another key": _token(None, ec.generate_private_key(ec.SECP256R1())),
    "unknown kid": _token(kid="unknown"),
    "kid of another type": _part({"alg": "ES256", "kid": 7}) + b"." + b".".join(_GOOD.split(b".")[1:]),
    "alg of another type": _part({"alg": ["ES256"], "kid": "e"}) + b"." + b".".join(_GOOD.split(b".")[1:]),
    "critical extension": _part({"alg": "ES256", "kid": "e", "crit": ["x"], "x": 1}) + b"." + _GOOD.split(b".", 1)[1],
    "expired": _token({"exp": NOW - 61}),
    "not yet valid": _token({"nbf": NOW + 61}),
    "exp no time": jwt.PyJWS().encode(json.dumps({**_CLAIMS, "exp": "x"}).encode(), EC_KEY, algorithm="ES256").encode(),
    "another issuer": _token({"iss": "https://other.example"}),
    "no issuer": _token({"iss": ""}),
    "no signature": _GOOD.rpartition(b".")[0] + b".",
    "two parts": _GOOD.rpartition(b".")[0],
    "four parts": _GOOD + b".x",
    "empty": b"",
    "no base64": b"!!.!!.!!",
    "no json": b"eA.eA.eA",
    "payload no object": _part({"alg": "ES256", "kid": "e"}) + b"." + _part([1]) + b".AA",
    "deep json": urlsafe_b64encode(b"[" * 6000) + b"." + urlsafe_b64encode(b"[" * 6000) + b".AA",
    "huge": b"A" * (MAX_TOKEN_BYTES + 1) + b".A.A",
    "huge and signed": _token({"pad": "x" * MAX_TOKEN_BYTES}),
    "two tokens": _GOOD + b",Bearer " + _GOOD,
    "changed payload": b".".join([_GOOD.split(b".")[0], _part({**_CLAIMS, "sub": "root"}), _GOOD.split(b".")[2]]),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_tokens_are_refused(name: str) -> None:
    head = _head(_BAD[name])
    before = list(head.headers)
    assert isinstance(_verifier().verify(head, NOW), TokenRefused)
    assert head.headers == before


def test_two_authorization_headers_are_refused() -> None:
    """The verifier would read one, the application perhaps the other."""
    head = _head(_GOOD)
    head.headers.append((b"authorization", b"Bearer " + _GOOD))
    assert isinstance(_verifier().verify(head, NOW), TokenRefused)


@given(st.data())
def test_a_token_changed_anywhere_is_refused(data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(_GOOD) - 2))
    byte = data.draw(st.sampled_from(b"AQgw_x.").filter(lambda byte: byte != _GOOD[index]))
    changed = _GOOD[:index] + bytes((byte,)) + _GOOD[index + 1 :]
    assert isinstance(_verifier().verify(_head(changed), NOW), TokenRefused)


def test_clocks_may_differ_by_a_minute() -> None:
    for claims in ({"exp": NOW - 59}, {"nbf": NOW + 59}):
        assert isinstance(_verifier().verify(_head(_token(claims)), NOW), VerifiedToken)


def test_a_kept_token_still_expires() -> None:
    verifier = _verifier()
    assert isinstance(verifier.verify(_head(_GOOD), NOW), VerifiedToken)
    assert isinstance(verifier.verify(_head(_GOOD), NOW + 121), TokenRefused)


def test_audiences() -> None:
    assert isinstance(_verifier(_rule(audiences=("a", "shop"))).verify(_head(_GOOD), NOW), VerifiedToken)
    assert isinstance(_verifier(_rule(audiences=("a",))).verify(_head(_GOOD), NOW), TokenRefused)
    without = jwt.encode({"iss": ISSUER}, EC_KEY, algorithm="ES256").encode()
    assert isinstance(_verifier(_rule(audiences=("a",))).verify(_head(without), NOW), TokenRefused)
    assert isinstance(_verifier().verify(_head(without), NOW), VerifiedToken)


def test_several_issuers_each_with_its_keys() -> None:
    other_key = ec.generate_private_key(ec.SECP256R1())
    other = _rule(issuer="other", jwks=json.dumps({"keys": [_jwk(other_key, "ES256")]}))
    verifier = _verifier(_rule(), other)
    assert isinstance(verifier.verify(_head(_GOOD), NOW), VerifiedToken)
    assert isinstance(verifier.verify(_head(_token({"iss": "other"}, other_key)), NOW), VerifiedToken)
    # One issuer must not speak for the other.
    assert isinstance(verifier.verify(_head(_token({"iss": "other"})), NOW), TokenRefused)


def test_other_places_and_forwarding() -> None:
    rule = _rule(
        sources=(
            TokenSource(header="x-jwt", prefix=""),
            TokenSource(header=None, query="token"),
            TokenSource(header=None, cookie="jwt"),
        )
    )
    head = RequestHead(method=b"GET", path=b"/p?a=1&token=" + _GOOD + b"&b=2", authority=b"")
    assert isinstance(_verifier(rule).verify(head, NOW), VerifiedToken)
    assert head.path == b"/p?a=1&b=2"
    head = RequestHead(method=b"GET", path=b"/p?token=" + _GOOD, authority=b"", headers=[(b"x-jwt", _GOOD)])
    assert isinstance(_verifier(rule).verify(head, NOW), VerifiedToken)
    assert (head.path, head.headers) == (b"/p", [])
    head = RequestHead(method=b"GET", path=b"/", authority=b"", headers=[(b"cookie", b"jwt=" + _GOOD)])
    assert isinstance(_verifier(rule).verify(head, NOW), VerifiedToken)
    # Every token that is found must be good.
    head = RequestHead(method=b"GET", path=b"/?token=bad", authority=b"", headers=[(b"x-jwt", _GOOD)])
    assert isinstance(_verifier(rule).verify(head, NOW), TokenRefused)
    kept = _head(_GOOD)
    assert isinstance(_verifier(_rule(forward_token=True)).verify(kept, NOW), VerifiedToken)
    assert kept.headers[0][0] == b"authorization"


def test_claims_become_headers_that_no_client_can_forge() -> None:
    rule = _rule(claims_to_headers=(("sub", "X-User"), ("absent", "x-absent")), output_payload_header="x-payload")
    head = _head(_GOOD)
    forged = [(b"x-user", b"root"), (b"x-payload", b"forged"), (b"x-absent", b"forged")]
    head.headers += forged
    assert isinstance(_verifier(rule).verify(head, NOW), VerifiedToken)
    assert head.headers == [(b"x", b"y"), (b"x-user", b"alice"), (b"x-payload", _GOOD.split(b".")[1])]
    without = _head(None)
    without.headers += forged
    assert _verifier(rule).verify(without, NOW) is None
    assert without.headers == [(b"x", b"y")]
    broken = _head(_token({"sub": "a\r\nx-admin: 1"}))
    assert isinstance(_verifier(rule).verify(broken, NOW), VerifiedToken)
    assert b"x-user" not in dict(broken.headers)


def test_keys_from_an_address_are_asked_for() -> None:
    rule = _rule(jwks=None, jwks_uri="https://issuer.example/keys", timeout_seconds=2.0)
    keys: dict[str, KeySet] = {}
    verifier = TokenVerifier([RequestAuthentication(key="k", rules=(rule,))], keys.get)
    assert verifier.uris() == {"https://issuer.example/keys"}
    assert verifier.verify(_head(_GOOD), NOW) == KeysWanted("https://issuer.example/keys", 2.0)
    keys["https://issuer.example/keys"] = decode_key_set(DOCUMENT.encode())
    assert isinstance(verifier.verify(_head(_GOOD), NOW), VerifiedToken)
    rotated = _token(kid="new")
    wanted = verifier.verify(_head(rotated), NOW)
    assert isinstance(wanted, KeysWanted)
    assert wanted.known is keys["https://issuer.example/keys"]
    document = json.dumps({"keys": [_jwk(EC_KEY, "ES256", kid="new")]})
    keys["https://issuer.example/keys"] = decode_key_set(document.encode())
    assert isinstance(verifier.verify(_head(rotated), NOW), VerifiedToken)
    # What the withdrawn key has signed is no longer good, though it was kept.
    assert not isinstance(verifier.verify(_head(_GOOD), NOW), VerifiedToken)


def test_without_an_address_the_issuer_tells_where_its_keys_are() -> None:
    verifier = _verifier(_rule(jwks=None))
    where = "https://issuer.example/.well-known/openid-configuration"
    assert verifier.uris() == {where}
    assert verifier.verify(_head(_GOOD), NOW) == KeysWanted(where, 5.0)
    assert decode_discovery(b'{"jwks_uri": "https://keys.example/k"}', where) == "https://keys.example/k"
    for document in (b"", b"[]", b"{}", b'{"jwks_uri": 1}', b'{"jwks_uri": "http://h/"}', b'{"jwks_uri": "file:///"}'):
        with pytest.raises(InvalidValue):
            decode_discovery(document, where)


def test_rules_that_cannot_work_refuse_their_issuers_tokens() -> None:
    for rule in (_rule(jwks="{}"), _rule(jwks=None, issuer="no-address"), _rule(jwks=None, issuer="")):
        verifier = _verifier(rule)
        assert len(verifier.problems) == 1
        assert isinstance(verifier.verify(_head(_token({"iss": rule.issuer})), NOW), TokenRefused)
    with pytest.raises(ConfigurationError):
        _verifier(_rule(claims_to_headers=(("a", "b c"),)))


# -- key sets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"keys": 1}',
        b'{"keys": []}',
        b'{"keys": [1, null, {}]}',
        b"[" * 100_000,
        b'{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}',
        b'{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}',
        b'{"keys": [{"kty": "RSA", "n": 5, "e": []}]}',
        json.dumps({"keys": [_jwk(EC_KEY, "ES256", use="enc")]}).encode(),
        json.dumps({"keys": [_jwk(EC_KEY, "ES256", alg="RS256")]}).encode(),
        json.dumps({"keys": [_jwk(EC_KEY, "ES256", key_ops=["encrypt"])]}).encode(),
        json.dumps({"keys": [_jwk(EC_KEY, "ES256")] * (MAX_KEYS + 1)}).encode(),
        b'{"keys": [], "pad": "' + b"x" * 300_000 + b'"}',
        json.dumps({"keys": [_jwk(rsa.generate_private_key(public_exponent=65537, key_size=1024), "RS256")]}).encode(),
    ],
)
def test_bad_key_sets_are_refused(document: bytes) -> None:
    with pytest.raises(InvalidValue):
        decode_key_set(document)


def test_one_bad_key_does_not_spoil_the_others() -> None:
    keys = decode_key_set(json.dumps({"keys": [{"kty": "RSA"}, _jwk(EC_KEY, "ES256", kid="e")]}).encode())
    assert [key.key_id for key in keys.keys] == ["e"]
    assert keys.candidates("e", "ES256")
    assert not keys.candidates("e", "HS256")
    assert not keys.candidates("x", "ES256")

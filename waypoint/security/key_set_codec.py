"""JSON Web Key Sets (RFC 7517): the public keys that an issuer's tokens are verified with.

What each key may verify follows from the key, never from a token: its type and curve say which algorithms there are,
and its own ``alg`` may leave one of them. That is what makes "alg none" and the confusion of a public RSA key with an
HMAC secret impossible. Symmetric keys (``oct``) are not taken: a secret in a document that everybody may fetch is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from mesh.errors import InvalidValue

MAX_DOCUMENT_BYTES: Final = 256 << 10
MAX_KEYS: Final = 64
MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
"""Below an issuer's address: where its document says where its keys are (OpenID Connect Discovery 1.0, section 4)."""

_RSA: Final = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_BY_CURVE: Final = {
    ("EC", "P-256"): frozenset({"ES256"}),
    ("EC", "P-384"): frozenset({"ES384"}),
    ("EC", "P-521"): frozenset({"ES512"}),
    ("OKP", "Ed25519"): frozenset({"EdDSA"}),
}


@dataclass(frozen=True, slots=True, eq=False)
class VerifyingKey:
    """One key of a set."""

    key_id: str | None
    algorithms: frozenset[str]
    key: Any
    """As ``cryptography`` knows it."""


@dataclass(frozen=True, slots=True, eq=False)
class KeySet:
    """The keys of one document, without those that cannot be used here."""

    keys: tuple[VerifyingKey, ...]

    def candidates(self, key_id: str | None, algorithm: str) -> list[VerifyingKey]:
        """The keys that may have signed a token, by its header: those with its key id, and those without any."""
        return [
            key
            for key in self.keys
            if algorithm in key.algorithms and (key_id is None or key.key_id is None or key.key_id == key_id)
        ]


def decode_key_set(document: bytes) -> KeySet:
    """Read a document.

    Raises:
        InvalidValue: too large, no JSON, no key set, or without any key that can be used.
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise InvalidValue(f"the key set has {len(document)} bytes, more than {MAX_DOCUMENT_BYTES}")
    try:
        content = msgspec.json.decode(document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidValue(f"the key set is no JSON: {error}") from error
    listed = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise InvalidValue("the document is no key set: it has no list 'keys'")
    if len(listed) > MAX_KEYS:
        raise InvalidValue(f"the key set has {len(listed)} keys, more than {MAX_KEYS}")
    keys = tuple(key for item in listed if (key := _key(item)) is not None)
    if not keys:
        raise InvalidValue("the key set has no key for verifying signatures (RSA of 2048 bits or more, EC, Ed25519)")
    return KeySet(keys)


def decode_discovery(document: bytes, uri: str) -> str:
    """Where the keys are, by an issuer's own document.

    Args:
        document: what ``uri`` has answered.
        uri: its address; what came over https is not left for http.

    Raises:
        InvalidValue: it does not say.
    """
    try:
        content = msgspec.json.decode(document)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidValue(f"the issuer's OpenID configuration is no JSON: {error}") from error
    where = content.get("jwks_uri") if isinstance(content, dict) else None
    scheme = uri.partition(":")[0] + "://"
    if not isinstance(where, str) or not where.startswith(("https://", scheme)):
        raise InvalidValue(f"the issuer's OpenID configuration has no jwks_uri that could be used with {scheme}")
    return where


def _key(item: object) -> VerifyingKey | None:
    if not isinstance(item, dict) or item.get("use", "sig") != "sig":
        return None
    operations = item.get("key_ops")
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return None
    kind, curve = item.get("kty"), item.get("crv")
    algorithms = _RSA if kind == "RSA" else _BY_CURVE.get((str(kind), str(curve)), frozenset())
    stated = item.get("alg")
    if stated is not None:
        algorithms &= {stated} if isinstance(stated, str) else frozenset()
    if not algorithms:
        return None
    # The private half, should somebody publish it, is not needed for verifying.
    public = {name: value for name, value in item.items() if name not in ("d", "p", "q", "dp", "dq", "qi", "oth")}
    try:
        key = jwt.PyJWK(public, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return None  # One key that cannot be read must not take the others with it.
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        return None
    key_id = item.get("kid")
    return VerifyingKey(key_id if isinstance(key_id, str) else None, algorithms, key)

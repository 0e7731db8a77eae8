"""SPIFFE identities of workloads.

The grammar is the mesh's own narrow one: exactly ``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``. Other
SPIFFE ids are valid SPIFFE but name nothing here, so they are errors (SPIFFE-ID specification, section 2).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from mesh.errors import InvalidIdentity

SCHEME = "spiffe://"

# Kubernetes names: RFC 1123 labels (namespace) and subdomains (service account, trust domain). Bounded, so that a
# hostile certificate cannot make us keep large strings.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class SpiffeId:
    """Who a workload is: its trust domain, namespace and service account."""

    trust_domain: str
    namespace: str
    service_account: str

    # Written out, as they are needed for every connection, and a dataclass's are not compiled.

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpiffeId):
            return NotImplemented
        return (
            self.service_account == other.service_account
            and self.namespace == other.namespace
            and self.trust_domain == other.trust_domain
        )

    def __hash__(self) -> int:
        return hash((self.trust_domain, self.namespace, self.service_account))

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def principal(self) -> str:
        """The form authorization policies match: the id without its scheme."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @staticmethod
    def parse(text: str) -> SpiffeId:
        """Read an id such as ``spiffe://cluster.local/ns/default/sa/client``.

        Raises:
            InvalidIdentity: the text is not of the mesh's form.
        """
        return _parse(text)


@lru_cache(maxsize=8192)
def _parse(text: str) -> SpiffeId:
    if not text.startswith(SCHEME):
        raise InvalidIdentity(f"{text[:128]!r} is not a SPIFFE id: it does not start with {SCHEME}")
    parts = text[len(SCHEME) :].split("/")
    if len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa":
        raise InvalidIdentity(f"{text[:128]!r} is not of the form {SCHEME}<trust domain>/ns/<namespace>/sa/<account>")
    trust_domain, _, namespace, _, account = parts
    if not (_TRUST_DOMAIN.fullmatch(trust_domain) and _NAME.fullmatch(namespace) and _NAME.fullmatch(account)):
        raise InvalidIdentity(f"{text[:128]!r} holds a name that Kubernetes would not allow")
    return SpiffeId(trust_domain, namespace, account)

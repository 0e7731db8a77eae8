from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.identity import SpiffeId
from mesh.tls.csr import make_csr, make_key


def test_the_request_states_one_uri_and_nothing_else() -> None:
    identity = SpiffeId("cluster.local", "default", "client")
    key = make_key()
    request = x509.load_pem_x509_csr(make_csr(identity, key))
    assert request.is_signature_valid
    assert isinstance(request.signature_hash_algorithm, hashes.SHA256)
    assert list(request.subject) == []
    assert len(request.extensions) == 1
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier("spiffe://cluster.local/ns/default/sa/client")]
    public = request.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    assert public == key.public_key()

from __future__ import annotations

from cryptography import x509

from controlplane.ca.authority import make_root
from controlplane.ca.chain import is_issued_by


def test_a_root_signed_itself_and_no_other() -> None:
    one, other = (x509.load_pem_x509_certificate(make_root("cluster.local")[0]) for _ in range(2))
    assert is_issued_by(one, one)
    assert not is_issued_by(one, other)

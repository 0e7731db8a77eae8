from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from controlplane.ca.authority import make_root
from controlplane.ca.rotation import Pace
from controlplane.ca.succession import LONG_AGO, Signer, Succession, advance, begun

PACE = Pace(spread=timedelta(hours=24), afterlife=timedelta(days=90))
_ROOTS = [make_root(f"mesh-{number}") for number in range(4)]


def root(number: int, *more: int) -> Signer:
    """A root that signs itself, to be trusted together with others."""
    certificate, key = _ROOTS[number]
    return Signer(certificate, key, certificate + b"".join(_ROOTS[other][0] for other in more))


def intermediate(number: int, life: timedelta = timedelta(days=1000)) -> Signer:
    """An authority below a root."""
    certificate, key = _ROOTS[number]
    parent_key = serialization.load_pem_private_key(key, password=None)
    assert isinstance(parent_key, ec.EllipticCurvePrivateKey)
    parent = x509.load_pem_x509_certificate(certificate)
    own = ec.generate_private_key(ec.SECP256R1())
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(parent.subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(parent.not_valid_before_utc)
        .not_valid_after(now() + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(parent_key, hashes.SHA256())
    )
    pem = own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Signer(made.public_bytes(serialization.Encoding.PEM), pem, certificate)


def now() -> datetime:
    return datetime.now(UTC)


def test_the_same_again_changes_nothing() -> None:
    kept = begun(root(0), now())
    assert advance(kept, root(0), now() + timedelta(days=400), PACE) is kept


def test_trusted_then_signing_then_forgotten() -> None:
    at = now()
    kept = begun(root(0), at)
    kept = advance(kept, root(1), at, PACE)
    assert kept.signer == root(0)
    assert _ROOTS[1][0] in kept.bundle
    assert advance(kept, root(1), at + PACE.spread / 2, PACE) is kept
    at += PACE.spread
    kept = advance(kept, root(1), at, PACE)
    assert kept.signer == root(1)
    assert _ROOTS[0][0] in kept.bundle
    kept = advance(kept, root(1), at + PACE.afterlife, PACE)
    assert kept.bundle == _ROOTS[1][0]


def test_a_wish_that_is_taken_back_was_trusted_only() -> None:
    at = now()
    kept = advance(begun(root(0), LONG_AGO), root(1), at, PACE)
    kept = advance(kept, root(0), at + PACE.spread / 2, PACE)
    assert kept.signer == root(0)
    kept = advance(kept, root(0), at + PACE.spread / 2 + PACE.afterlife, PACE)
    assert kept.bundle == _ROOTS[0][0]


def test_an_intermediate_of_a_known_root_signs_at_once() -> None:
    kept = begun(root(0), LONG_AGO)
    wished = intermediate(0)
    kept = advance(kept, wished, now(), PACE)
    assert kept.signer == wished
    other = intermediate(0)
    assert advance(kept, other, now(), PACE).signer == other


def test_a_root_made_trusted_beforehand_signs_at_once_and_not_sooner() -> None:
    at = now()
    kept = advance(begun(root(0), LONG_AGO), root(0, 1), at, PACE)
    assert kept.signer == root(0, 1)
    early = advance(kept, root(1, 0), at + timedelta(hours=1), PACE)
    assert early.signer == root(0, 1), "two steps at a run are no overlap"
    assert advance(kept, root(1, 0), at + PACE.spread, PACE).signer == root(1, 0)


def test_what_has_expired_signs_no_more() -> None:
    kept = begun(intermediate(0, timedelta(days=1)), LONG_AGO)
    assert advance(kept, root(1), now() + timedelta(days=2), PACE).signer == root(1)


def test_on_request_it_signs_at_once() -> None:
    kept = advance(begun(root(0), LONG_AGO), root(1), now(), PACE, at_once=True)
    assert kept.signer == root(1)
    assert _ROOTS[0][0] in kept.bundle


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3), st.sets(st.integers(0, 3))), max_size=25))
def test_what_signs_was_trusted_for_the_spread_and_stays_so_for_the_afterlife(
    steps: list[tuple[int, int, set[int]]],
) -> None:
    at = now()
    kept: Succession = begun(root(0), at - PACE.spread)
    trusted_since = {_ROOTS[0][0]: at - PACE.spread}
    signed_until: dict[bytes, datetime] = {}
    for hours, number, more in steps:
        at += timedelta(hours=hours)
        before = kept.signer.chain
        kept = advance(kept, root(number, *more), at, PACE)
        for certificate, _ in _ROOTS:
            if certificate not in kept.bundle:
                trusted_since.pop(certificate, None)
            else:
                trusted_since.setdefault(certificate, at)
        assert at - trusted_since[kept.signer.chain] >= PACE.spread
        if kept.signer.chain != before:
            signed_until[before] = at
        signed_until.pop(kept.signer.chain, None)
        for certificate, until in signed_until.items():
            assert certificate in kept.bundle or at - until >= PACE.afterlife

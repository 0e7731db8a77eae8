from __future__ import annotations

import pytest

from mesh import errors
from mesh.errors import Fault, InternalError, MeshError, PeerIdentityMismatch, PolicyDenied, TlsFailure, TunnelRefused

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MeshError)]
LEAVES = [kind for kind in KINDS if kind is not MeshError]


@pytest.mark.parametrize("kind", LEAVES)
def test_every_error_says_whose_fault_and_what_goes_on_the_wire(kind: type[MeshError]) -> None:
    assert isinstance(kind.fault, Fault)
    assert 400 <= kind.http_status < 600
    assert isinstance(kind.response_flag, errors.ResponseFlag)
    assert kind.__doc__


def test_only_bugs_are_ours() -> None:
    assert [kind for kind in LEAVES if kind.fault is Fault.INTERNAL] == [InternalError]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.PolicyDenied, 401),
        (errors.ClosedByPolicyChange, 401),
        (errors.BadConnectRequest, 400),
        (errors.DestinationMismatch, 400),
        (errors.UnknownWorkload, 503),
        (errors.NoHealthyUpstream, 503),
        (errors.SelfCall, 503),
        (errors.ConnectFailed, 503),
    ],
)
def test_statuses_of_the_tunnel_protocol(kind: type[MeshError], status: int) -> None:
    assert kind.http_status == status


@pytest.mark.parametrize(("status", "words"), [(400, "moved"), (401, "Policy"), (503, "application"), (418, "log")])
def test_a_refused_tunnel_names_the_likely_cause(status: int, words: str) -> None:
    error = TunnelRefused(status)
    assert error.status == status
    assert f"http status: {status}" in str(error)
    assert words in str(error)


def chained() -> BaseException:
    try:
        try:
            try:
                raise PeerIdentityMismatch("deep")
            except TlsFailure:
                raise ValueError("implicit")  # noqa: B904 - an implicit context is what is tested
        except ValueError as error:
            raise RuntimeError("explicit") from error
    except RuntimeError as error:
        return error


def test_causes_are_found_along_the_chain() -> None:
    error = chained()
    found = errors.find_cause(error, TlsFailure)
    assert isinstance(found, PeerIdentityMismatch)
    assert errors.find_cause(error, PolicyDenied) is None
    denied = PolicyDenied("no")
    assert errors.find_cause(denied, PolicyDenied) is denied


def test_groups_within_groups_are_their_errors_in_order() -> None:
    first, second, third = PolicyDenied("first"), TlsFailure("second"), KeyboardInterrupt()
    group = BaseExceptionGroup("", [first, ExceptionGroup("", [ExceptionGroup("", [second])]), third])
    assert errors.leaves(group) == [first, second, third]
    assert errors.leaves(first) == [first]

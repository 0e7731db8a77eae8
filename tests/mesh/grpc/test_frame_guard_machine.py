import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import ProtocolViolation
from mesh.grpc.frame_guard_machine import Budget, FrameGuard, GoAway, goaway_frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, body: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


frames = st.one_of(
    st.binary(max_size=40).map(lambda body: (frame(0, body, 1, 1), None)),
    st.just((frame(8, b"\0\0\0\1"), None)),
    st.builds(
        lambda last, code: (goaway_frame(last, code, b"why"), GoAway(last, code, "why")),
        st.integers(0, 2**31 - 1),
        st.integers(0, 13),
    ),
)


@settings(deadline=None)
@given(st.lists(frames, max_size=10), st.integers(1, 30), st.booleans())
def test_goaways_are_taken_out_and_the_rest_passes_untouched(
    sent: list[tuple[bytes, GoAway | None]], piece: int, preface: bool
) -> None:
    guard = FrameGuard(max_frame_bytes=16384, expect_preface=preface)
    start = PREFACE if preface else b""
    wire = start + b"".join(raw for raw, _ in sent)
    passed, goaways = b"", []
    for at in range(0, len(wire), piece):
        some, seen = guard.pass_on(wire[at : at + piece], 0.0)
        passed += some
        goaways += seen
    assert passed == start + b"".join(raw for raw, goaway in sent if goaway is None)
    assert goaways == [goaway for _, goaway in sent if goaway is not None]


def test_a_goaway_within_a_header_block_is_left_for_h2_to_refuse() -> None:
    guard = FrameGuard(max_frame_bytes=16384, expect_preface=False)
    wire = frame(1, b"x", 0, 1) + goaway_frame(0, 0)
    assert guard.pass_on(wire, 0.0) == (wire, [])


def test_an_overlong_frame_is_refused_by_its_header() -> None:
    guard = FrameGuard(max_frame_bytes=16384, expect_preface=False)
    with pytest.raises(ProtocolViolation, match="16385 bytes"):
        guard.pass_on((16385).to_bytes(3, "big") + bytes(6), 0.0)


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0\0\0\0"])
def test_a_short_goaway_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        FrameGuard(max_frame_bytes=16384, expect_preface=False).pass_on(frame(7, body), 0.0)


@pytest.mark.parametrize(
    ("flood", "text"),
    [
        (frame(3, b"\0\0\0\x08", 0, 1), "resets"),
        (frame(6, bytes(8)), "flood"),
        (frame(4), "flood"),
        (frame(0, b"", 0, 1), "flood"),
        (frame(2, bytes(5), 0, 1), "flood"),
        (frame(0xEE), "flood"),
    ],
)
def test_floods_end_the_connection_but_the_same_frames_over_time_do_not(flood: bytes, text: str) -> None:
    guard = FrameGuard(max_frame_bytes=16384, expect_preface=False)
    with pytest.raises(ProtocolViolation, match=text):
        guard.pass_on(flood * 2000, 0.0)
    patient = FrameGuard(max_frame_bytes=16384, expect_preface=False)
    for second in range(200):
        patient.pass_on(flood * 50, float(second))


def test_a_budget_refills_with_time_up_to_its_burst() -> None:
    budget = Budget(3, 1.0)
    assert [budget.spend(0.0) for _ in range(4)] == [True, True, True, False]
    assert budget.spend(1.0)
    assert not budget.spend(1.5)
    assert [budget.spend(100.0) for _ in range(4)] == [True, True, True, False]

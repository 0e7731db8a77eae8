"""Trace contexts on the wire: W3C ``traceparent`` and ``tracestate``, and B3 in its two forms.

What a client sends is believed only where it is well-formed; anything else counts as not sent, as the W3C's Trace
Context (section 3.2.2) has it. If both kinds come, W3C's is taken. A context that goes on is written in every form in
which it came.
"""

from __future__ import annotations

from typing import Final

from waypoint.http.message import Headers
from waypoint.routing.text import header_value

MAX_STATE_BYTES: Final = 512
_HEX: Final = frozenset(b"0123456789abcdef")
_TRACEPARENT: Final = b"traceparent"
_B3: Final = b"b3"
_ALL: Final = frozenset(
    {
        *(_TRACEPARENT, b"tracestate", _B3),
        *(b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags"),
    }
)


class TraceContext:
    """Whose trace a request belongs to, as its client says."""

    __slots__ = ("b3_multi", "b3_single", "debug", "sampled", "span_id", "state", "trace_id", "w3c")

    def __init__(self, trace_id: bytes, span_id: bytes, sampled: bool | None) -> None:
        self.trace_id = trace_id
        """32 hexadecimal digits."""
        self.span_id = span_id
        """16 hexadecimal digits: the client's span, parent of ours."""
        self.sampled = sampled
        """None: the client leaves the decision to us (B3)."""
        self.state = b""
        """``tracestate``, passed on as it is."""
        self.w3c = False
        self.b3_single = False
        self.b3_multi = False
        self.debug = False
        """B3's debug flag: recorded by everybody, whatever they sample."""


def declined(headers: Headers) -> bool:
    """Whether a request without a context says that it is not to be recorded: B3's lone decision."""
    for name, value in headers:
        if (name == _B3 and value == b"0") or (name == b"x-b3-sampled" and value.lower() in (b"0", b"false")):
            return True
    return False


def extract(headers: Headers) -> TraceContext | None:
    """The context of a request; None if it brings none, or none that can be read."""
    w3c = single = multi = False
    for name, _ in headers:
        if name == _TRACEPARENT:
            w3c = True
        elif name == _B3:
            single = True
        elif name == b"x-b3-traceid":
            multi = True
    if not (w3c or single or multi):
        return None
    context = None
    if w3c:
        context = _traceparent(header_value(headers, _TRACEPARENT) or b"")
        if context is not None:
            context.w3c = True
            state = header_value(headers, b"tracestate") or b""
            if len(state) <= MAX_STATE_BYTES:
                context.state = state
    found = _single(header_value(headers, _B3) or b"") if single else None
    if found is None and multi:
        found, single = _multi(headers), False
    if context is None:
        context = found
    if context is not None and found is not None:
        context.b3_single, context.b3_multi, context.debug = single, not single, found.debug
    return context


def inject(headers: Headers, context: TraceContext, span_id: bytes, sampled: bool) -> None:
    """Write a context onto a request, in place of what it brought.

    Args:
        headers: the request's.
        context: what ``extract`` found, or one that was begun here.
        span_id: ours, 16 hexadecimal digits: the parent of whoever comes next.
        sampled: the decision.
    """
    headers[:] = [field for field in headers if field[0] not in _ALL]
    trace_id, parent = context.trace_id, context.span_id
    if context.w3c:
        headers.append((_TRACEPARENT, b"00-%b-%b-%b" % (trace_id, span_id, b"01" if sampled else b"00")))
        if context.state:
            headers.append((b"tracestate", context.state))
    flag = b"1" if sampled else b"0"
    if context.b3_single:
        headers.append((_B3, b"%b-%b-%b-%b" % (trace_id, span_id, b"d" if context.debug else flag, parent)))
    if context.b3_multi:
        decision = (b"x-b3-flags", b"1") if context.debug else (b"x-b3-sampled", flag)
        headers += [
            *((b"x-b3-traceid", trace_id), (b"x-b3-spanid", span_id)),
            *((b"x-b3-parentspanid", parent), decision),
        ]


def _is_id(text: bytes, length: int) -> bool:
    return len(text) == length and _HEX.issuperset(text) and text.strip(b"0") != b""


def _traceparent(value: bytes) -> TraceContext | None:
    version = value[:2]
    if len(version) != 2 or not _HEX.issuperset(version) or version == b"ff":
        return None
    # A later version may say more after the parts that are known.
    if len(value) != 55 and not (version != b"00" and value[55:56] == b"-"):
        return None
    parts = value[:55].split(b"-")
    if len(parts) != 4 or len(parts[3]) != 2 or not _HEX.issuperset(parts[3]):
        return None
    if not _is_id(parts[1], 32) or not _is_id(parts[2], 16):
        return None
    return TraceContext(parts[1], parts[2], bool(int(parts[3], 16) & 1))


def _b3(trace_id: bytes, span_id: bytes, sampled: bool | None, *, debug: bool) -> TraceContext | None:
    trace_id, span_id = trace_id.lower(), span_id.lower()
    if len(trace_id) == 16:
        trace_id = b"0" * 16 + trace_id
    if not _is_id(trace_id, 32) or not _is_id(span_id, 16):
        return None
    context = TraceContext(trace_id, span_id, sampled)
    context.debug = debug
    return context


_DECISIONS: Final = {b"1": True, b"d": True, b"true": True, b"0": False, b"false": False}


def _single(value: bytes) -> TraceContext | None:
    parts = value.split(b"-")
    if not 2 <= len(parts) <= 4:
        return None  # A lone decision names no trace.
    sampled = None
    if len(parts) > 2:
        if parts[2] not in (b"0", b"1", b"d"):
            return None
        sampled = _DECISIONS[parts[2]]
    return _b3(parts[0], parts[1], sampled, debug=len(parts) > 2 and parts[2] == b"d")


def _multi(headers: Headers) -> TraceContext | None:
    trace_id = header_value(headers, b"x-b3-traceid") or b""
    span_id = header_value(headers, b"x-b3-spanid") or b""
    sampled = _DECISIONS.get((header_value(headers, b"x-b3-sampled") or b"").lower())
    debug = header_value(headers, b"x-b3-flags") == b"1"
    return _b3(trace_id, span_id, True if debug else sampled, debug=debug)

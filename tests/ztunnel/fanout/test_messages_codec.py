"""Every message comes back as it was; nothing else is taken for one."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidMessage
from ztunnel.fanout import messages_codec as codec

TO_WORKER = get_args(codec.ToWorker)
TO_SUPERVISOR = get_args(codec.ToSupervisor)

numbers = st.integers(0, 2**63 - 1)
text = st.text(max_size=40)
values: dict[Any, st.SearchStrategy[Any]] = {
    "int": numbers,
    "str": text,
    "bytes": st.binary(max_size=200),
    "bool": st.booleans(),
    "str | None": st.none() | text,
    "list[int]": st.lists(st.integers(0, 65535), max_size=5),
    "list[str]": st.lists(text, max_size=5),
    "list[tuple[str, bytes]]": st.lists(st.tuples(text, st.binary(max_size=100)), max_size=5),
    "tuple[int, int]": st.tuples(numbers, numbers),
    "dict[int, Labels]": st.dictionaries(
        numbers,
        st.tuples(text, *[st.lists(text, max_size=8).map(tuple)] * 3, st.booleans()),
        max_size=3,
    ),
    "list[Series]": st.lists(
        st.builds(
            codec.Series, *[numbers] * 5, st.dictionaries(st.sampled_from(["-", "DENY"]), numbers, max_size=2)
        ),
        max_size=3,
    ),
}


def messages(kinds: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    def one(kind: Any) -> st.SearchStrategy[Any]:
        return st.builds(kind, **{name: values[declared] for name, declared in kind.__annotations__.items()})

    return st.one_of([one(kind) for kind in kinds])


@given(messages(TO_WORKER))
def test_what_the_supervisor_says(message: Any) -> None:
    assert codec.decode_to_worker(codec.encode(message)) == message


@given(messages(TO_SUPERVISOR))
def test_what_a_worker_says(message: Any) -> None:
    assert codec.decode_to_supervisor(codec.encode(message)) == message


@given(messages(TO_WORKER), st.data())
def test_a_message_that_was_cut_is_refused(message: Any, data: st.DataObject) -> None:
    encoded = codec.encode(message)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(InvalidMessage, match="supervisor"):
        codec.decode_to_worker(encoded[:cut])


@given(st.binary(max_size=100))
def test_noise_is_no_message(noise: bytes) -> None:
    for decode in (codec.decode_to_worker, codec.decode_to_supervisor):
        with pytest.raises(InvalidMessage):
            decode(noise)


def test_each_side_takes_only_what_the_other_says() -> None:
    with pytest.raises(InvalidMessage):
        codec.decode_to_worker(codec.encode(codec.Answer(number=1)))
    with pytest.raises(InvalidMessage):
        codec.decode_to_supervisor(codec.encode(codec.Drain()))


def test_unknown_fields_and_wrong_types_are_refused() -> None:
    for wrong in (
        {"kind": "delete_pod", "number": 1, "uid": 7},
        {"kind": "delete_pod", "number": 1},
        {"kind": "delete_pod", "number": 1, "uid": "u", "key": "PRIVATE"},
        {"kind": "what", "number": 1},
    ):
        with pytest.raises(InvalidMessage):
            codec.decode_to_worker(msgspec.msgpack.encode(wrong))

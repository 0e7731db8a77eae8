from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidMessage
from resources.kube.list_watch_machine import ErrorRead, EventRead, PageRead
from resources.kube.stream_codec import (
    MAX_LINE,
    LineSplitter,
    read_event,
    read_group_versions,
    read_page,
    read_resource_names,
    read_status,
)


def test_pages() -> None:
    page = b'{"kind":"PodList","metadata":{"resourceVersion":"5","continue":"t"},"items":[{"a":1},{"b":[2]}]}'
    assert read_page(page) == PageRead((b'{"a":1}', b'{"b":[2]}'), "5", "t")
    assert read_page(b'{"metadata":{"resourceVersion":"5"},"items":null}') == PageRead((), "5", "")


def test_events() -> None:
    line = b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"9"}}}'
    assert read_event(line) == EventRead("ADDED", b'{"metadata":{"resourceVersion":"9"}}', "9")
    gone = b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}'
    assert read_event(gone) == ErrorRead(410, "too old")


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"metadata":3}', b"\xff", b'{"items":{}}'])
def test_what_is_neither_is_said_to_be_so(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        read_event(raw)
    with pytest.raises(InvalidMessage):
        read_page(raw)


def test_statuses_groups_and_resources_of_anything() -> None:
    assert read_status(b'{"message":"m","reason":"r","code":409}').reason == "r"
    assert read_status(b"<html>bad gateway").message == "<html>bad gateway"
    assert read_group_versions(b'{"versions":[{"groupVersion":"g/v1","version":"v1"}]}') == ("v1",)
    assert read_resource_names(b'{"resources":[{"name":"pods"},{"name":"pods/status"}]}') == {"pods", "pods/status"}
    assert read_group_versions(b"x") == ()
    assert read_resource_names(b"x") == frozenset()


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda line: b"\n" not in line and line.strip())), st.data())
def test_lines_are_the_same_however_they_arrive(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found = LineSplitter(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += list(splitter.feed(stream[:size]))
        stream = stream[size:]
    assert found == lines


def test_a_line_without_end_is_refused() -> None:
    splitter = LineSplitter()
    for _ in range(MAX_LINE // 65536):
        assert list(splitter.feed(b"x" * 65536)) == []
    with pytest.raises(InvalidMessage, match="longer than"):
        list(splitter.feed(b"x"))

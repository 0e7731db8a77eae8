from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidMessage
from mesh.model.waypoint import WorkloadLabels
from mesh.testing.waypoint import FULL_DESTINATION
from mesh.xds.waypoint_codec import decode_destination, decode_labels, encode_destination, encode_labels


def test_everything_a_destination_holds_survives() -> None:
    assert decode_destination(encode_destination(FULL_DESTINATION)) == FULL_DESTINATION


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20)))
def test_labels_survive(labels: dict[str, str]) -> None:
    value = WorkloadLabels(uid="Kubernetes//Pod/demo/web", labels=tuple(sorted(labels.items())))
    assert decode_labels(encode_labels(value)) == value


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "truncated"),
        (b"[]", "object"),
        (b'{"key":"a"}', "waypoint"),
        (b'{"key":"a","waypoint":"b","ports":[{"number":"80"}]}', r"\$.ports\[0\].number"),
        (b'{"key":"a","waypoint":"b","policies":[{"key":"p","action":"maybe"}]}', r"\$.policies\[0\].action"),
    ],
)
def test_what_is_no_destination_is_refused_with_its_place(payload: bytes, field: str) -> None:
    with pytest.raises(InvalidMessage, match=field):
        decode_destination(payload)


def test_a_field_of_another_version_is_refused_not_ignored() -> None:
    payload = encode_labels(WorkloadLabels(uid="a", labels=()))
    assert decode_labels(payload).uid == "a"
    with pytest.raises(InvalidMessage, match="other fields"):
        decode_labels(payload[:-1] + b',"denied":true}')


def test_a_resource_is_bounded() -> None:
    with pytest.raises(InvalidMessage, match="more than"):
        decode_labels(b" " * (16 * 1024 * 1024 + 1))

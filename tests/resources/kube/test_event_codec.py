from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from resources.kube.event_codec import Notice, event_folder, event_name, event_of, repeated
from resources.objects import ObjectKey

NOW = "2026-01-01T00:00:00.000000Z"
NOTICE = Notice(
    about=ObjectKey("Pod", "shop", "web"), api_version="v1", uid="u", reason="Invalid", action="Read", note="no"
)


def test_an_event_is_where_its_object_is() -> None:
    body = event_of(NOTICE, "ambimesh.dev/operator", "replica", NOW)
    assert body["metadata"] == {"name": event_name(NOTICE), "namespace": "shop"}
    assert body["regarding"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "web", "uid": "u"}
    assert event_folder(NOTICE) == "/apis/events.k8s.io/v1/namespaces/shop/events"
    of_class = replace(NOTICE, about=ObjectKey("GatewayClass", "", "w"))
    body = event_of(of_class, "ambimesh.dev/operator", "replica", NOW)
    assert body["metadata"]["namespace"] == "default"
    assert "namespace" not in body["regarding"]


def test_the_same_has_the_same_name_and_something_else_another() -> None:
    assert event_name(NOTICE) == event_name(replace(NOTICE))
    for other in (replace(NOTICE, uid="v"), replace(NOTICE, note="yes"), replace(NOTICE, reason="NotRead")):
        assert event_name(other) != event_name(NOTICE)
    assert len(event_name(replace(NOTICE, about=ObjectKey("Pod", "n", "x" * 253)))) <= 253


def test_repetitions_are_counted() -> None:
    assert repeated({}, NOW)["series"] == {"count": 2, "lastObservedTime": NOW}
    assert repeated({"series": {"count": 7}}, NOW)["series"]["count"] == 8


@given(st.text(max_size=3000))
def test_notes_are_cut_to_what_the_api_takes(note: str) -> None:
    told = event_of(replace(NOTICE, note=note), "r", "i", NOW)["note"]
    assert len(told.encode()) <= 1024
    assert told == note or told.endswith(" ...")

from __future__ import annotations

from mesh.errors import ConfigurationError
from mesh.model.waypoint import Destination, WorkloadLabels
from mesh.xds.codec import DESTINATION_TYPE, LABELS_TYPE
from mesh.xds.discovery_codec import Resource
from mesh.xds.waypoint_codec import encode_destination, encode_labels
from waypoint.destinations import Destinations

WEB = Destination(key="demo/web", waypoint="demo/waypoint", hosts=("web", "web.demo"))


def resource(value: Destination, name: str = "") -> Resource:
    return Resource(name or value.name, "1", (), encode_destination(value))


class Prepared:
    """What stands for a served destination, and knows what it replaced."""

    def __init__(self, value: Destination, former: Prepared | None) -> None:
        if "bad" in value.hosts:
            raise ConfigurationError("cannot be served")
        self.value = value
        self.former = former


def made() -> Destinations[Prepared]:
    destinations: Destinations[Prepared] = Destinations("demo/waypoint")
    destinations.serve_by(Prepared)
    return destinations


def test_a_destination_is_found_by_key_and_by_host() -> None:
    destinations = made()
    assert destinations.apply(DESTINATION_TYPE, [resource(WEB)], []) == []
    served = destinations.get("demo/web")
    assert served is not None
    assert served.value == WEB
    assert destinations.at_host("web.demo") is served
    assert destinations.models() == [WEB]
    assert dict(destinations.by_key) == {"demo/web": served}


def test_a_new_version_replaces_the_former_which_it_is_given() -> None:
    destinations = made()
    destinations.apply(DESTINATION_TYPE, [resource(WEB)], [])
    first = destinations.get("demo/web")
    changed = Destination(key="demo/web", waypoint="demo/waypoint", hosts=("web",))
    destinations.apply(DESTINATION_TYPE, [resource(changed)], [])
    second = destinations.get("demo/web")
    assert second is not None
    assert second.former is first
    assert destinations.at_host("web") is second
    assert destinations.at_host("web.demo") is None


def test_one_bad_resource_keeps_the_good_ones_and_its_own_last_good_version() -> None:
    destinations = made()
    destinations.apply(DESTINATION_TYPE, [resource(WEB)], [])
    bad = Destination(key="demo/web", waypoint="demo/waypoint", hosts=("bad",))
    other = Destination(key="demo/other", waypoint="demo/waypoint")
    rejected = destinations.apply(
        DESTINATION_TYPE,
        [
            resource(bad),
            Resource("x", "1", (), b"{"),
            resource(Destination(key="a", waypoint="theirs/waypoint")),
            resource(other, "demo/waypoint|else"),
            resource(other),
        ],
        [],
    )
    assert [each.name for each in rejected] == [
        "demo/waypoint|demo/web", "x", "theirs/waypoint|a", "demo/waypoint|else",
    ]
    kept = destinations.get("demo/web")
    assert kept is not None
    assert kept.value == WEB
    assert destinations.get("demo/other") is not None


def test_what_is_removed_is_gone_with_its_hosts() -> None:
    destinations = made()
    destinations.apply(DESTINATION_TYPE, [resource(WEB)], [])
    destinations.apply(DESTINATION_TYPE, [], ["demo/waypoint|demo/web", "demo/waypoint/never"])
    assert destinations.get("demo/web") is None
    assert destinations.at_host("web") is None
    assert destinations.models() == []


def test_labels_come_and_go() -> None:
    destinations = made()
    value = WorkloadLabels(uid="uid", labels=(("app", "web"),))
    assert destinations.apply(LABELS_TYPE, [Resource("uid", "1", (), encode_labels(value))], []) == []
    assert destinations.labels_of("uid") == {"app": "web"}
    assert len(destinations.apply(LABELS_TYPE, [Resource("other", "1", (), encode_labels(value))], [])) == 1
    destinations.apply(LABELS_TYPE, [], ["uid"])
    assert destinations.labels_of("uid") == {}


def test_synchronized_once_both_types_were_answered() -> None:
    destinations = made()
    destinations.applied(DESTINATION_TYPE)
    assert not destinations.synchronized
    destinations.applied(LABELS_TYPE)
    assert destinations.synchronized

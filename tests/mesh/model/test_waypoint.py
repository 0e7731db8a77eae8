"""What waypoints are told survives the way there: the model is its own schema, as JSON."""

from __future__ import annotations

import msgspec

from mesh.model.waypoint import Destination, WorkloadLabels
from mesh.testing.waypoint import FULL_DESTINATION


def test_a_destination_is_the_same_after_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(FULL_DESTINATION), type=Destination) == FULL_DESTINATION
    labels = WorkloadLabels(uid="u", labels=(("a", "b"),))
    assert msgspec.json.decode(msgspec.json.encode(labels), type=WorkloadLabels) == labels


def test_a_destination_of_two_waypoints_is_two_resources() -> None:
    assert FULL_DESTINATION.name == "demo/waypoint|demo/web.demo.svc.cluster.local"

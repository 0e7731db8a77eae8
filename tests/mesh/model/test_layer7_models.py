"""What the model of layer 7 promises: values that can be shared, compared, kept in sets; defaults do nothing."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from types import ModuleType

import pytest

from mesh.model import http_route, request_policy, upstream_policy, waypoint
from mesh.model.http_route import HttpRoute, RequestMatch
from mesh.model.upstream_policy import TrafficPolicy, UpstreamPolicy
from mesh.model.waypoint import Destination

MODULES = (http_route, request_policy, upstream_policy, waypoint)


def classes(module: ModuleType) -> list[type]:
    return [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]


KINDS = [kind for module in MODULES for kind in classes(module)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_value_is_frozen_and_slim(kind: type) -> None:
    if issubclass(kind, enum.Enum):
        assert issubclass(kind, str), "written as its text"
        return
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in kind.__dict__


def test_a_bare_route_matches_everything_and_does_nothing() -> None:
    route = HttpRoute(name="r")
    assert route.matches == ()
    assert RequestMatch() == RequestMatch(headers=())
    doing = {field.name for field in dataclasses.fields(route)} - {"name", "matches", "backends"}
    assert not any(getattr(route, name) for name in doing)


def test_values_are_hashable_all_the_way_down() -> None:
    policy = UpstreamPolicy(service="a/b", policy=TrafficPolicy())
    assert len({Destination(key="a", waypoint="w", upstreams=(policy,)), Destination(key="a", waypoint="w")}) == 2

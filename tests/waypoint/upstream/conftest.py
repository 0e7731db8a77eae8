"""Endpoints for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mesh.model.workload import Locality
from mesh.state.routes import ToWorkload
from mesh.state.service_index import route_to
from mesh.testing.model import make_workload
from waypoint.upstream.endpoint import Endpoint

Routes = Callable[..., list[ToWorkload]]


def _route(number: int, region: str = "", zone: str = "", subzone: str = "", **fields: Any) -> ToWorkload:
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    locality = Locality(region, zone, subzone)
    workload = make_workload(f"pod-{number}", address, locality=locality, **fields)
    return route_to(workload, workload.addresses[0], 8080, "demo/echo")


@pytest.fixture
def route() -> Callable[..., ToWorkload]:
    return _route


@pytest.fixture
def endpoints() -> Callable[..., list[Endpoint]]:
    def make(count: int, weights: list[int] | None = None) -> list[Endpoint]:
        return [
            Endpoint(_route(number, capacity=1 if weights is None else weights[number]), 0.0)
            for number in range(count)
        ]

    return make

"""The chart's values, and the two files that say the same of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ambimesh.chart.loading_driver import PLACES, load_chart
from ambimesh.chart.values import Values, decode, merged, plain, schema
from mesh.errors import ConfigurationError


def test_the_defaults_are_those_of_the_file() -> None:
    assert load_chart().defaults == plain(Values())


def test_the_schema_is_the_one_that_is_made() -> None:
    """After a change: ``python -m ambimesh.chart``."""
    assert json.loads((PLACES[0] / "values.schema.json").read_text()) == schema()


def test_layers_are_merged_by_key() -> None:
    base = {"a": {"b": 1, "c": {"d": 2}}, "list": [1, 2]}
    assert merged(base, {"a": {"c": {"e": 3}}, "list": [9]}) == {"a": {"b": 1, "c": {"d": 2, "e": 3}}, "list": [9]}
    assert merged(base, {"a": {"b": None}}) == {"a": {"c": {"d": 2}}, "list": [1, 2]}
    assert merged(base, {"a": 5})["a"] == 5
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "list": [1, 2]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ztunel": {}}, "ztunel"),
        ({"agent": {"tolerations": [{"key": "a", "opertor": "Exists"}]}}, r"\$\.agent\.tolerations\[0\]"),
        ({"operator": {"resources": {"requests": {"cpu": "much"}}}}, "requests"),
        ({"images": {"prefix": "bad prefix"}}, r"\$\.images\.prefix"),
        ({"mesh": "none"}, r"\$\.mesh"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        decode(given, "--set")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ztunnel": {"wrkers": 2}}, "did you mean ztunnel.workers?"),
        ({"ztunel": {}}, "did you mean ztunnel?"),
        ({"waypoints": {"autoscaling": {"maxreplicas": 2}}}, "did you mean waypoints.autoscaling.maxReplicas?"),
        ({"fastPath": {}}, "did you mean ztunnel.fastPath?"),
        ({"mesh": {"qqqqqq": 1}}, "there are trustDomain, clusterId"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_ones(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown field") as refused:
        decode(given, "--set")
    assert said in str(refused.value)

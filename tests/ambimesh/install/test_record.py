"""What is remembered of an installation."""

from __future__ import annotations

from typing import Any

import pytest

from ambimesh.install.planning import Key
from ambimesh.install.record import from_object, make, to_object
from mesh.errors import ConfigurationError


def test_a_record_comes_back_as_it_was_written() -> None:
    keys = [Key("v1", "ConfigMap", "m", "a"), Key("apps/v1", "Deployment", "m", "b")]
    record = make("1.2", {"ztunnel": {"workers": 2}}, keys, complete=True)
    assert from_object(to_object(record, "m")) == record
    assert from_object(to_object(record, "m")).objects[0].kind == "ConfigMap"


@pytest.mark.parametrize(
    "value", [{}, {"data": {}}, {"data": {"record.json": "{}"}}, {"data": {"record.json": '{"x":1}'}}]
)
def test_what_is_no_record_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="ambimesh-installation"):
        from_object(value)

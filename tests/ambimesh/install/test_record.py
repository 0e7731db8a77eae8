"""What is remembered of an installation."""

from __future__ import annotations

from typing import Any

import pytest

from ambimesh.install.planning import Key
from ambimesh.install.record import Worked, from_object, last_working, make, to_object
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


def test_what_worked_last_is_kept_until_something_works_again() -> None:
    good = make("1", {"a": 1}, [], complete=True)
    broken = make("2", {"a": 2}, [], complete=False, before=good)
    worse = make("3", {"a": 3}, [], complete=False, before=broken)
    for record in (good, broken, worse):
        assert last_working(from_object(to_object(record, "m"))) == Worked(version="1", values={"a": 1})
    assert last_working(make("4", {"a": 4}, [], complete=True, before=worse)) == Worked(version="4", values={"a": 4})
    assert last_working(make("1", {}, [], complete=False)) is None


def test_a_newer_versions_record_is_read_by_who_goes_back() -> None:
    value = to_object(make("9", {}, [], complete=False), "m")
    value["data"]["record.json"] = value["data"]["record.json"].replace("{", '{"ofTomorrow":1,', 1)
    assert from_object(value).version == "9"

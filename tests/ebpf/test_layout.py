"""The mirror of the ABI header: numbers and reasons equal the header's, drift is found."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ebpf import layout
from ebpf.layout_check import check
from ebpf.loader import PROGRAMS
from ebpf.reasons import Reason
from mesh.addresses import parse_ip
from mesh.errors import InternalError

TEXT = (PROGRAMS / "abi.h").read_text(encoding="ascii")
SOCKET_ADDRESS = [
    "socket_address",
    [["ip", "unsigned int", [4]], ["port", "unsigned short"], ["zero", "unsigned short"]],
]


CHOSEN = ["chosen", [*SOCKET_ADDRESS, "struct_packed"]]
SPLICED = ["spliced", "unsigned int"]


def packed(description: list[Any]) -> list[Any]:
    return [*description, "struct_packed"]


def test_numbers_equal_the_headers() -> None:
    defined = {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)(?:\s|$)", TEXT, re.MULTILINE)}
    defined["ABI_VERSION"] = defined.pop("AMBIMESH_ABI_VERSION")
    ours = {name: value for name, value in vars(layout).items() if name.isupper() and isinstance(value, int)}
    assert ours == defined


def test_reasons_equal_the_headers() -> None:
    listed = {name: int(number) for name, number in re.findall(r"^\tREASON_(\w+) = (\d+),", TEXT, re.MULTILINE)}
    limit = listed.pop("LIMIT")
    assert {reason.name: reason.value for reason in Reason} == listed
    assert limit == max(listed.values()) + 1


def test_every_map_of_the_programs_is_mirrored() -> None:
    text = (PROGRAMS / "maps.h").read_text(encoding="ascii")
    assert set(re.findall(r'PIN_DIRECTORY "(\w+)"', text)) == set(layout.MAPS)


def test_a_faithful_description_passes() -> None:
    check("connections", "key", "int")
    fields = [["kind", "unsigned int"], ["address", packed(SOCKET_ADDRESS)], CHOSEN, SPLICED]
    value = packed(["connection", fields])
    check("connections", "value", value)
    check("pod_addresses", "value", "unsigned long long")


@pytest.mark.parametrize(
    "description",
    [
        "unsigned int",
        packed(["connection", [["kind", "unsigned int"]]]),
        packed(["connection", [["kind", "unsigned short"], ["address", packed(SOCKET_ADDRESS)], CHOSEN, SPLICED]]),
        packed(["connection", [["type", "unsigned int"], ["address", packed(SOCKET_ADDRESS)], CHOSEN, SPLICED]]),
        packed(["connection", [["address", packed(SOCKET_ADDRESS)], CHOSEN, SPLICED, ["kind", "unsigned int"]]]),
        ["connection", [["kind", "unsigned int"], ["address", packed(SOCKET_ADDRESS)], CHOSEN, SPLICED], "struct"],
        packed(["connection", [["kind", "unknown_t"], ["address", packed(SOCKET_ADDRESS)], CHOSEN, SPLICED]]),
        {"kind": "unsigned int"},
    ],
)
def test_drift_is_an_error_that_names_the_map(description: Any) -> None:
    with pytest.raises(InternalError, match=r"abi\.h"):
        check("connections", "value", description)


def test_addresses_survive_the_way_there_and_back() -> None:
    address = parse_ip("fd00::12:3")
    assert layout.read_ip(layout.ip_field(address)) == address

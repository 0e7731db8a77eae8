from __future__ import annotations

from pathlib import Path

import pytest

from ambimesh.lab import preflight
from ebpf.features import FeatureCheck
from mesh.errors import EnvironmentLacks

GOOD = FeatureCheck("ip", True, "/usr/sbin/ip", "")
BAD = FeatureCheck("nft", False, "not installed", "apt-get install nftables")


def test_nothing_missing_is_no_error() -> None:
    preflight.require([GOOD])


def test_what_is_missing_is_told_in_one_line_with_its_remedy() -> None:
    with pytest.raises(EnvironmentLacks) as caught:
        preflight.require([GOOD, BAD, BAD])
    assert str(caught.value) == ("nft: not installed; remedy: apt-get install nftables (1 more: run ambimesh check)")


@pytest.mark.parametrize(
    ("release", "version"), [("6.1.0-18-amd64", (6, 1)), ("5.14-rc1", (5, 14)), ("6.18.44-x", (6, 18))]
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert preflight.kernel_version(release) == version


def test_every_failed_check_has_a_remedy_and_names_are_unique() -> None:
    found = preflight.checks(mesh=True)
    assert all(check.ok or check.remedy for check in found)
    assert len({check.name for check in found}) == len(found)
    assert len(preflight.checks(mesh=False)) < len(found)


@pytest.mark.parametrize(
    ("there", "module", "ok", "said"),
    [
        (True, False, True, "yes"),
        (False, True, True, "module br_netfilter, which a lab loads"),
        (False, False, False, "the kernel does not show bridged packets to its filter"),
    ],
)
def test_the_bridge_filter_may_be_a_module(
    there: bool, module: bool, ok: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, program = tmp_path / "bridge", tmp_path / "modprobe"
    program.write_text(
        f'#!/bin/sh\n[ "$*" = "-q --dry-run br_netfilter" ] && exit {1 - module}\n'
        f'[ "$*" = "-q br_netfilter" ] && exec mkdir {place}\nexit 9\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(preflight, "_BRIDGE_FILTER", place)
    monkeypatch.setattr(preflight, "_SYSTEM_PATH", f"{tmp_path}:/usr/bin:/bin")
    if there:
        place.mkdir()
    (found,) = [check for check in preflight.checks(mesh=False) if check.name == "bridge filter"]
    assert (found.ok, found.detail) == (ok, said)
    assert place.exists() == there  # looking changes nothing
    preflight.load_bridge_filter()
    assert place.exists()


@pytest.mark.root
def test_this_machine_can_run_a_lab() -> None:
    preflight.require(preflight.checks(mesh=True))

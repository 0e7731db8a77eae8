from __future__ import annotations

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
    assert str(caught.value) == (
        "nft: not installed; remedy: apt-get install nftables (1 more: run ambimesh check)"
    )


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


@pytest.mark.root
def test_this_machine_can_run_a_lab() -> None:
    preflight.require(preflight.checks(mesh=True))

"""Merging Debian's split kernel headers, and finding headers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebpf import headers
from mesh.errors import EnvironmentLacks

SUFFIX = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def make_pair(sources: Path, version: str) -> None:
    common = sources / f"linux-headers-{version}-common"
    architecture = sources / f"linux-headers-{version}-cloud-{SUFFIX}"
    (common / "include/linux").mkdir(parents=True)
    (common / "include/linux/kconfig.h").write_text(version)
    (common / "Makefile").write_text("common")
    (architecture / "include/generated").mkdir(parents=True)
    (architecture / "include/generated/autoconf.h").write_text(version)
    (architecture / "Makefile").write_text("architecture")


def test_the_newest_pair_becomes_one_folder(tmp_path: Path) -> None:
    sources = tmp_path / "src"
    make_pair(sources, "6.1.0-9")
    make_pair(sources, "6.1.0-56")
    (sources / f"linux-headers-7.0.0-1-cloud-{SUFFIX}").mkdir()  # a half without its other half
    target = headers.merge_headers(tmp_path / "deep" / "merged", sources)
    assert (target / "include/linux/kconfig.h").read_text() == "6.1.0-56"
    assert (target / "include/generated/autoconf.h").read_text() == "6.1.0-56"
    assert (target / "Makefile").read_text() == "architecture"


def test_merging_again_replaces(tmp_path: Path) -> None:
    sources, target = tmp_path / "src", tmp_path / "merged"
    make_pair(sources, "6.1.0-9")
    headers.merge_headers(target, sources)
    make_pair(sources, "6.1.0-56")
    headers.merge_headers(target, sources)
    assert (target / "include/linux/kconfig.h").read_text() == "6.1.0-56"
    assert {entry.name for entry in tmp_path.iterdir()} == {"src", "merged"}


def test_nothing_installed_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentLacks, match="linux-headers-cloud-amd64"):
        headers.merge_headers(tmp_path / "merged", tmp_path)


def test_the_environment_names_the_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_pair(tmp_path / "src", "6.1.0-56")
    merged = headers.merge_headers(tmp_path / "merged", tmp_path / "src")
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(merged))
    assert headers.find_headers() == merged


def test_no_headers_anywhere_names_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path / "nothing"))
    monkeypatch.setattr(headers, "_MARKER", Path("no/such/file"))
    with pytest.raises(EnvironmentLacks, match="nothing"):
        headers.find_headers()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert headers.main([]) == 2
    assert headers.main(["a", "b"]) == 2
    assert "usage" in capsys.readouterr().err

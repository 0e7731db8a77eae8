"""Containerfiles built without a registry. That they build is shown by ``make containerfiles``."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from scripts import image
from scripts.image_containerfile import BASE, Buildah, differences

SAID = {"Env": ["PATH=/bin", "A=1"], "Entrypoint": ["python"], "User": "1337:1337"}


@pytest.fixture
def buildah(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name that writes down how it is called."""
    program = tmp_path / "bin" / "buildah"
    program.parent.mkdir()
    script = f'echo "$@" >>{tmp_path}/calls\ncase "$*" in *broken*) echo no; exit 3;; esac\necho made\n'
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path


def test_the_base_is_made_here_and_nothing_is_pulled(buildah: Path) -> None:
    builder = Buildah(buildah)
    builder.base(Path("/debian"), [Path("/etc/resolv.conf")])
    builder.build(image.IMAGES / "operator.Containerfile", Path("/context"), "localhost/x:1")
    calls = (buildah / "calls").read_text().splitlines()
    assert [call.split(" vfs ")[1].split()[0] for call in calls] == ["from", "add", "add", "commit", "build"]
    assert calls[0].endswith("from scratch")
    assert f"--build-arg BASE={BASE}" in calls[-1]
    assert "--pull-never" in calls[-1]
    assert calls[-1].endswith("operator.Containerfile /context")
    assert all(f"--root {buildah}/storage" in call for call in calls)


def test_what_fails_is_told_with_its_last_lines(buildah: Path) -> None:
    with pytest.raises(SystemExit, match=r"buildah build ended with 3:\nno"):
        Buildah(buildah).build(Path("broken"), Path("/context"), "x")


def test_without_buildah_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="apt-get install"):
        Buildah(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, []),
        ({"User": "0:0"}, ["User: '0:0' instead of '1337:1337'"]),
        ({"Env": ["PATH=/bin", "B=1"]}, ["Env lacks A=1"]),
        ({"Env": ["PATH=/bin", "A=1", "more=1"]}, []),
    ],
)
def test_an_image_that_is_run_otherwise_than_its_archive_is_named(change: dict[str, object], told: list[str]) -> None:
    assert differences({**SAID, **change}, SAID) == told

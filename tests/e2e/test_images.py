"""Images: what they are made of is kept, shared, and the same for the same contents."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import EnvironmentLacks
from tests.e2e.kit import debian, image_store, images, mesh_images
from tests.e2e.kit.images import Image, Layer


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/ambimesh/images"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__/module.pyc").write_bytes(b"of one machine")
    (folder / "module.py").write_text("print(1)\n")
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o700)
    return folder


def members(layer: Layer) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(layer.file) as archive:
        return {member.name: member for member in archive}


def test_a_layer_holds_files_bytes_and_links(program: Path) -> None:
    layer = images.tree_layer("tree", {"opt/package": program, "etc/note": b"text", "bin/run": "/opt/package/run"})
    found = members(layer)
    assert set(found) == {"opt/package", "opt/package/module.py", "opt/package/run", "etc/note", "bin/run"}
    assert found["bin/run"].linkname == "/opt/package/run"
    assert (found["opt/package/run"].mode, found["opt/package/module.py"].mode) == (0o755, 0o644)
    assert images.digest_of(layer.file) == layer.digest


def test_the_same_contents_are_the_same_layer(program: Path, cache: Path) -> None:
    first = images.tree_layer("tree", {"opt": program})
    (program / "module.py").touch()
    (program / "__pycache__/other.pyc").write_bytes(b"")
    assert images.tree_layer("tree", {"opt": program}) == first
    (program / "module.py").write_text("print(2)\n")
    assert images.tree_layer("tree", {"opt": program}) != first
    assert not list(cache.glob("*.unfinished"))


def test_a_kept_layer_is_made_once() -> None:
    made: list[Path] = []

    def make(file: Path) -> None:
        made.append(file)
        file.write_bytes(b"content")

    first = images.kept_layer("kept", ["a", "bc"], make)
    assert images.kept_layer("kept", ["a", "bc"], make) == first
    assert len(made) == 1
    # What is joined differently is different.
    assert images.kept_layer("kept", ["ab", "c"], make) != first


def test_a_layer_that_could_not_be_made_leaves_nothing(cache: Path) -> None:
    def make(file: Path) -> None:
        file.write_bytes(b"half")
        raise EnvironmentLacks("no space left")

    with pytest.raises(EnvironmentLacks, match="no space"):
        images.kept_layer("kept", [], make)
    assert [path.name for path in cache.iterdir()] == ["kept.lock"]


def test_an_archive_names_what_is_in_it(program: Path) -> None:
    shared = images.tree_layer("shared", {"etc/shared": b"1"})
    own = images.tree_layer("own", {"opt": program})
    written = io.BytesIO()
    several = [
        Image("localhost/one:1", [shared], ["/run"], {"PATH": "/bin"}),
        Image("localhost/two:1", [shared, own]),
    ]
    images.write_archive(written, several)
    files = unpacked(written)
    found = {entry["annotations"]["io.containerd.image.name"]: entry for entry in index(files)}
    assert set(found) == {"localhost/one:1", "localhost/two:1"}
    assert len([name for name in files if name.startswith("blobs/")]) == 6  # two layers; two manifests, configurations
    for image in several:
        manifest = json.loads(blob(files, found[image.name]))
        configuration = json.loads(blob(files, manifest["config"]))
        assert configuration["config"]["Cmd"] == list(image.command)
        assert configuration["config"]["Env"] == [f"{name}={value}" for name, value in image.environment.items()]
        for described, unpacked_as, layer in zip(
            manifest["layers"], configuration["rootfs"]["diff_ids"], image.layers, strict=True
        ):
            assert unpacked_as == f"sha256:{layer.digest}"
            assert blob(files, described) == layer.file.read_bytes()


def test_what_a_reader_has_is_left_out(program: Path) -> None:
    shared = images.tree_layer("shared", {"etc/shared": b"1"})
    own = images.tree_layer("own", {"opt": program})
    written = io.BytesIO()
    images.write_archive(written, [Image("localhost/two:1", [shared, own])], [shared])
    files = unpacked(written)
    assert f"blobs/sha256/{own.digest}" in files
    assert f"blobs/sha256/{shared.digest}" not in files
    (described,) = index(files)
    assert shared.digest in blob(files, described).decode()


def unpacked(written: io.BytesIO) -> dict[str, bytes]:
    written.seek(0)
    with tarfile.open(fileobj=written) as archive:
        contents = {member.name: archive.extractfile(member) for member in archive}
        return {name: opened.read() for name, opened in contents.items() if opened is not None}


def index(files: dict[str, bytes]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(files["index.json"])["manifests"]
    return found


def blob(files: dict[str, bytes], described: dict[str, Any]) -> bytes:
    content = files["blobs/" + described["digest"].replace(":", "/")]
    assert described["size"] == len(content)
    assert described["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    return content


def test_a_store_is_linked_but_for_its_databases(tmp_path: Path) -> None:
    """A node may write to its databases, and removing its disk takes nothing from the store."""
    store = tmp_path / "store"
    (store / "snapshots/1/fs").mkdir(parents=True)
    (store / "snapshots/1/fs/program").write_text("unpacked")
    (store / "meta.db").write_text("index")
    target = tmp_path / "node"
    target.mkdir()
    image_store.Store(store, []).copy_to(target)
    assert (target / "snapshots/1/fs/program").samefile(store / "snapshots/1/fs/program")
    (target / "meta.db").write_text("changed")
    shutil.rmtree(target)
    assert ((store / "meta.db").read_text(), (store / "snapshots/1/fs/program").read_text()) == ("index", "unpacked")


def test_the_lists_are_of_names_that_debian_has() -> None:
    packages = [package for name in ("base", "agent") for package in mesh_images.package_list(name)]
    assert f"linux-headers-cloud-{debian.architecture()}" in packages
    assert [package for package in packages if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]+", package)] == []
    known = subprocess.run(["dpkg-query", "-W", "-f=${Package}\n"], stdout=subprocess.PIPE, text=True, check=True)
    # What the images need, the checkout's own set-up has on the machine, or it would not be tried there.
    assert {"python3", "python3-bpfcc", "libc6-dev"} <= set(packages) & set(known.stdout.split())


def test_the_sandbox_is_one_static_program() -> None:
    image = mesh_images.sandbox_image()
    assert list(members(image.layers[0])) == ["pause"]
    program = mesh_images.pause_program()
    # It inherits a mask, so a signal that comes too early waits for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        running = subprocess.Popen([program])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        running.terminate()
        assert running.wait(10) == 0
    finally:
        running.kill()
        running.wait()


def test_the_project_is_in_its_layer_as_it_is() -> None:
    """Each component's layer is what `scripts/image.py` puts into its image."""
    home = mesh_images.HOME
    expected = {
        "operator": {f"{home}/operator/controlplane/__main__.py"},
        "agent": {f"{home}/cni/__main__.py", f"{home}/bin/ambimesh-cni"},
        "ztunnel": {f"{home}/ztunnel/__main__.py"},
        "waypoint": {f"{home}/waypoint/__main__.py", "etc/ambimesh/waypoint.yaml"},
    }
    for component, names in expected.items():
        found = members(mesh_images.component_layer(component))
        assert names <= set(found)
        others = set().union(*(theirs for other, theirs in expected.items() if other != component))
        assert not others & set(found)
        assert (f"{home}/compiled/manifest.json" in found) == (component in ("ztunnel", "waypoint"))
        assert [name for name in found if name.endswith(".pyc")] == []
    plugin = members(mesh_images.component_layer("agent"))[f"{home}/bin/ambimesh-cni"]
    assert plugin.mode == 0o755


def test_a_missing_program_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentLacks, match="mmdebstrap not found; remedy: make setup-e2e"):
        mesh_images.debian_layer("base")
    with pytest.raises(EnvironmentLacks, match="gcc not found"):
        mesh_images.pause_program()

"""Loading, keeping, replacing and removing a node's programs."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ebpf import programs_driver, syscall
from ebpf.attachment import CGROUP_HOOKS, POD_HOOK, SPLICE_HOOK, UNATTACHED_HOOKS, attached, closing
from ebpf.paths import PinPaths
from ebpf.programs_driver import detach_all, load_programs, pinned_digest, program_digest, read_caller_roles
from mesh.errors import ConfigurationError, EnvironmentLacks

pytestmark = pytest.mark.root


@pytest.fixture
def reloaded(node: Any) -> Iterator[Any]:
    """The node, loaded again after a test that took its programs away."""
    yield node
    for place in node.places.values():
        place.stop_actors()
    node.stop_ztunnel()
    detach_all(node.paths)
    node.load()


def identities(paths: PinPaths) -> tuple[dict[str, int], dict[str, int]]:
    """Kernel numbers of the linked programs, and of the maps by a value that only the same map can hold."""
    programs = {}
    for hook in CGROUP_HOOKS:
        with closing(syscall.require_pin(paths.links / hook.function)) as link:
            programs[hook.function] = syscall.link_info(link).program_id
    maps = {pin.name: pin.stat().st_ino for pin in paths.maps.iterdir()}
    return programs, maps


HOOKS = (*CGROUP_HOOKS, POD_HOOK, SPLICE_HOOK, *UNATTACHED_HOOKS)


def leftovers(node: Any) -> list[str]:
    # bpffs shows two iterator files of the kernel's own at its root.
    return [entry.name for entry in node.bpffs.iterdir() if not entry.name.endswith(".debug")]


def test_everything_is_pinned_and_attached(node: Any) -> None:
    paths = node.paths
    assert {pin.name for pin in paths.links.iterdir()} == {hook.function for hook in CGROUP_HOOKS}
    assert {pin.name for pin in paths.programs.iterdir()} == {hook.function for hook in HOOKS}
    assert attached(paths, node.cgroup)
    assert pinned_digest(paths) == program_digest()


def test_loading_again_keeps_what_is_there(mesh: Any, kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_child(*_: object, **__: object) -> None:
        raise AssertionError("the loader was started")

    monkeypatch.setattr(subprocess, "run", no_child)
    before = identities(mesh.paths)
    kit.start_server(mesh.places["b"], 8080)
    mesh.load()
    assert identities(mesh.paths) == before
    assert mesh.places["a"].run(kit.call, "10.244.1.3", 8080).peer == ("10.244.1.3", 8080)
    mesh.stop_ztunnel()
    with pytest.raises(ConnectionRefusedError):
        mesh.places["a"].run(kit.call, "10.244.1.3", 8080)


def test_another_program_text_replaces_programs_and_keeps_maps(
    mesh: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, maps = identities(mesh.paths)
    monkeypatch.setattr(programs_driver, "program_digest", lambda: "ab" * 32)
    mesh.load()
    assert pinned_digest(mesh.paths) == "ab" * 32
    new_programs, new_maps = identities(mesh.paths)
    assert new_maps == maps
    assert all(new_programs[name] != programs[name] for name in programs)
    # Pods stay enrolled and their links run the new sk_lookup program; ztunnel's listeners are still known.
    kit.start_server(mesh.places["b"], 8080)
    with closing(syscall.require_pin(mesh.paths.programs / POD_HOOK.function)) as program:
        for pin in mesh.paths.pods.iterdir():
            with closing(syscall.require_pin(pin)) as link:
                assert syscall.link_info(link).program_id == syscall.program_id(program)
    seen = mesh.places["a"].run(kit.call, "10.244.1.3", 8080)
    assert seen.answer.startswith(f"::ffff:10.244.1.2 {seen.local[1]} ")


def test_a_lost_link_is_made_again(mesh: Any, kit: Any) -> None:
    pin = mesh.paths.links / "mesh_connect4"
    with closing(syscall.require_pin(pin)) as link:
        syscall.detach_link(link)
    assert not attached(mesh.paths, mesh.cgroup)
    mesh.load()
    assert attached(mesh.paths, mesh.cgroup)
    kit.start_server(mesh.places["b"], 8080)
    assert not mesh.places["a"].run(kit.call, "10.244.1.3", 8080).answer.startswith("plaintext")


def test_after_detach_everything_is_plain_and_nothing_is_left(reloaded: Any, kit: Any) -> None:
    node = reloaded
    node.enrol("a")
    node.enrol("b")
    kit.start_server(node.places["b"], 8080)
    with pytest.raises(ConnectionRefusedError):
        node.places["a"].run(kit.call, "10.244.1.3", 8080)
    detach_all(node.paths)
    assert leftovers(node) == []
    for host, family, client in (
        ("10.244.1.3", socket.AF_INET, "::ffff:10.244.1.2"),
        ("fd00:10:244:1::3", socket.AF_INET6, "fd00:10:244:1::2"),
    ):
        seen = node.places["a"].run(kit.call, host, 8080, family)
        assert seen.answer == f"{client} {seen.local[1]} {client} {seen.local[1]}\n"
    detach_all(node.paths)  # again: nothing happens


def test_two_nodes_share_a_bpffs(node: Any) -> None:
    other = node.cgroup / "pods"
    settings = replace(node.settings, node="second", cgroup=other, kubelet_cgroups=())
    load_programs(settings)
    try:
        assert attached(settings.paths, other)
    finally:
        detach_all(settings.paths)
    assert leftovers(node) == ["ambimesh"]
    assert attached(node.paths, node.cgroup)


def test_state_of_another_abi_version_is_refused(reloaded: Any) -> None:
    node = reloaded
    stale = node.paths.node_root / "v999"
    (stale / "links").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="v999"):
        node.load()
    detach_all(node.paths)
    assert leftovers(node) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bpffs": Path("/nonexistent")}, "mount -t bpf"),
        ({"cgroup": Path("/sys/fs/cgroup/nonexistent")}, "nonexistent"),
    ],
)
def test_a_missing_mount_or_cgroup_is_said(node: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvironmentLacks, match=words):
        load_programs(replace(node.settings, node="elsewhere", **change))
    assert leftovers(node) == ["ambimesh"]


def test_a_missing_ztunnel_cgroup_is_said(node: Any) -> None:
    with pytest.raises(EnvironmentLacks, match="nowhere"):
        load_programs(replace(node.settings, ztunnel_cgroups=(node.cgroup / "nowhere",)))


def test_a_compiler_failure_leaves_nothing_behind(
    node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "include/linux").mkdir(parents=True)
    (tmp_path / "include/linux/kconfig.h").touch()
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(tmp_path))
    with pytest.raises(EnvironmentLacks, match=r"compiling dialling\.bpf\.c with the headers of"):
        load_programs(replace(node.settings, node="elsewhere"))
    assert [entry.name for entry in node.paths.mesh.iterdir()] == [node.name]


def test_roles_follow_the_settings(node: Any, kit: Any) -> None:
    """A ztunnel that moves to another cgroup: the old one loses its role."""
    settings = replace(node.settings, ztunnel_cgroups=(node.cgroup / "pods/c",), kubelet_cgroups=())
    node.enrol("a")
    kit.start_server(node.places["c"], 8080)
    try:
        load_programs(settings)
        with pytest.raises(ConnectionRefusedError):
            node.places["a"].run(kit.call, "10.244.1.4", 8080, cgroup=node.cgroup / "ztunnel")
        assert node.places["a"].run(kit.call, "10.244.1.4", 8080, cgroup=node.cgroup / "pods/c").answer
    finally:
        node.load()
        node.places["c"].stop_actors()
        node.unenrol("a")


def test_roles_that_no_setting_names_stay_as_they_are(node: Any) -> None:
    """They were found by an agent before this one."""
    before = read_caller_roles(node.paths)
    assert before == tuple(frozenset([(node.cgroup / name).stat().st_ino]) for name in ("ztunnel", "kubelet"))
    load_programs(replace(node.settings, ztunnel_cgroups=(), kubelet_cgroups=()))
    assert read_caller_roles(node.paths) == before


def test_a_changed_map_size_is_kept_and_said(node: Any, capsys: pytest.CaptureFixture[str]) -> None:
    load_programs(replace(node.settings, map_sizes=replace(node.settings.map_sizes, pods=65)))
    assert "map keeps its size" in capsys.readouterr().out
    with closing(syscall.require_pin(node.paths.maps / "pods")) as fd:
        assert syscall.map_info(fd).max_entries == 64

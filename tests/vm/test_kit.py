"""What of the virtual machine's kit can be told without booting it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from mesh.errors import EnvironmentLacks
from tests.vm.kit import disks, machine, run

WITH = "processor\t: 0\nflags\t\t: fpu vmx sse\n"
WITHOUT = "processor\t: 0\nflags\t\t: fpu sse vmxless\nvmx flags\t: vnmi\n"


def test_only_a_processor_that_offers_it_virtualises() -> None:
    assert machine.virtualises(WITH)
    assert machine.virtualises(WITH.replace("vmx", "svm"))
    assert not machine.virtualises(WITHOUT)


def test_what_is_found_can_be_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMBIMESH_VM_ACCELERATOR", "tcg")
    assert "-icount" in machine.accelerator()
    monkeypatch.setenv("AMBIMESH_VM_ACCELERATOR", "kvm")
    assert "-icount" not in machine.accelerator()


def test_only_the_results_are_written_to() -> None:
    debian = disks.Debian(Path("/d/root.img"), Path("/d/vmlinuz"), Path("/d/initrd.img"))
    command = machine.qemu(debian, {"python": Path("/p.img"), "results": Path("/r.img")}, Path("/c.log"))
    drives = {word for word in command if "if=none" in word}
    assert {word.partition(",")[0]: "snapshot=on" in word for word in drives} == {
        "id=root": True,
        "id=python": True,
        "id=results": False,
    }
    assert command[command.index("-nic") + 1] == "none"


def test_a_request_is_a_tar_file_of_whole_blocks() -> None:
    packed = machine._request("echo hello\n")
    assert len(packed) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        held = {entry.name: content.read().decode() for entry in archive if (content := archive.extractfile(entry))}
    assert held.pop("main").startswith("#!/bin/bash\n")
    assert held == {"checkout": str(disks.ROOT), "script": "echo hello\n"}


def test_a_script_loads_modules_then_runs_commands_then_pytest(tmp_path: Path) -> None:
    text = run.script(["tls"], ["echo before"], ["-m", "root and vm", "tests/x.py"])
    assert text.index("modprobe tls") < text.index("echo before") < text.index("-m pytest -m 'root and vm' tests/x.py")
    assert "pytest" not in run.script([], ["true"], [])
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_results_are_taken_from_the_disk(tmp_path: Path) -> None:
    disk, console, results = tmp_path / "results.img", tmp_path / "console.log", tmp_path / "results"
    results.mkdir()
    (results / "junit.xml").touch()
    console.write_text("Linux\n")
    with tarfile.open(disk, "w") as archive:
        entry = tarfile.TarInfo("./status")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"5\n"))
    with disk.open("ab") as file:
        file.write(bytes(1 << 20))  # the disk is larger than what was written to it
    assert machine._unpack(disk, console, results) == 5
    assert sorted(path.name for path in results.iterdir()) == ["console.log", "status"]


def test_a_machine_that_left_nothing_is_told_of_with_its_console(tmp_path: Path) -> None:
    disk, console = tmp_path / "results.img", tmp_path / "console.log"
    disk.write_bytes(bytes(1 << 20))
    console.write_text("Kernel panic - not syncing\n")
    with pytest.raises(EnvironmentLacks, match=r"(?s)left no results.*Kernel panic"):
        machine._unpack(disk, console, tmp_path / "results")


def test_the_machine_has_what_every_checkout_needs() -> None:
    assert {"python3-bpfcc", "tcpdump", "nginx"} <= set(disks._packages())

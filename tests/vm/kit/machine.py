"""Starts the virtual machine, shows what it says, and takes its results.

Theory of operation. Where the processor offers virtualisation, the machine runs in real time. Where it does not, qemu
translates every instruction, and is ten to thirty times slower; by a real clock all that waits for something would then
give up too early. So the machine is given a clock of its own there: time in it passes by instructions executed
(``-icount``), as on a slow machine that is not emulated, and waits of the product and of its tests are as long as they
should be. With such a clock Linux does not get a second processor started, so it has one, and keeps one core of the
host busy.

Host and machine exchange two tar files, each the content of a disk, and the output of what runs is a console of its
own. A machine that does not switch itself off in time is killed.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import EnvironmentLacks
from tests.vm.kit import disks

_MAIN = disks.SERVICE.with_name("main.sh")
_MEMORY = "6G"
_RESULTS_BYTES = 64 << 20
_RESULTS = ("status", "junit.xml", "kernel.log", "journal.log", "console.log")
"""What of an earlier run must not be taken for this one's."""
_SHOWN_LINES = 40
_EMULATED = (
    "-accel", "tcg,tb-size=1024", "-cpu", "max,la57=off", "-smp", "1",
    "-icount", "shift=0,sleep=on", "-rtc", "clock=vm",
)  # fmt: skip
"""Each instruction takes a nanosecond of the machine's time."""
_VIRTUALISED = ("-accel", "kvm", "-cpu", "host", "-smp", "2")
_KERNEL = (
    "root=/dev/vda", "rw", "console=ttyS0", "systemd.unified_cgroup_hierarchy=1", "panic=-1", "mitigations=off",
    "nowatchdog", "systemd.show_status=no", "net.ifnames=0",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    status: int
    """Of the script."""
    results: Path
    """The folder with what the script left there, ``kernel.log``, ``journal.log``, and ``console.log`` of the boot."""
    seconds: float


def virtualises(cpuinfo: str) -> bool:
    """Whether a processor offers virtualisation, by the text of ``/proc/cpuinfo``.

    ``/dev/kvm`` alone does not tell: a kernel may have it for guests made for it.
    """
    return re.search(r"^flags\s*:.*\b(vmx|svm)\b", cpuinfo, re.MULTILINE) is not None


def accelerator() -> Sequence[str]:
    """qemu's options for this host; ``AMBIMESH_VM_ACCELERATOR`` (kvm, tcg) overrules what is found."""
    chosen = os.environ.get("AMBIMESH_VM_ACCELERATOR")
    there = os.access("/dev/kvm", os.R_OK | os.W_OK) and virtualises(Path("/proc/cpuinfo").read_text())
    return _VIRTUALISED if chosen == "kvm" or (there and chosen != "tcg") else _EMULATED


def qemu(debian: disks.Debian, drives: dict[str, Path], console: Path) -> list[str]:
    """The command that runs the machine.

    Args:
        debian: what it boots from; its disk is not written to.
        drives: its other disks by name, ``results`` the only one that keeps what is written to it.
        console: a file for what the kernel and systemd say.
    """
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]
    command += [*accelerator(), "-m", _MEMORY, "-serial", f"file:{console}"]
    command += ["-kernel", str(debian.kernel), "-initrd", str(debian.initial), "-append", " ".join(_KERNEL)]
    command += ["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"]
    for name, file in {"root": debian.disk, **drives}.items():
        kept = "off" if name == "results" else "on"
        command += ["-drive", f"id={name},if=none,file={file},format=raw,snapshot={kept},cache=unsafe"]
        command += ["-device", f"virtio-blk-pci,drive={name},serial={name}"]
    return [*command, "-device", "virtio-rng-pci"]


def run(script: str, results: Path, *, timeout: float, say: disks.Say) -> Outcome:
    """Boot, run a script in the checkout with the machine's ``/bin/bash``, switch off.

    What the script prints is printed here as it comes. It leaves files in the folder ``$RESULTS``.

    Args:
        script: its text.
        results: a folder for what it left.
        timeout: seconds of the host until the machine is killed.
        say: told what is being done.

    Raises:
        EnvironmentLacks: the machine could not be made or started, did not end in time, or left no results.
    """
    disks.FOLDER.mkdir(parents=True, exist_ok=True)
    debian, python = disks.debian(say), disks.python_disk()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=disks.FOLDER, prefix="run-") as name:
        folder = Path(name)
        drives = {name: folder / f"{name}.img" for name in ("checkout", "request", "results")}
        say("the checkout's disk ...")
        disks.checkout_disk(drives["checkout"])
        drives["request"].write_bytes(_request(script))
        drives["results"].touch()
        os.truncate(drives["results"], _RESULTS_BYTES)
        command = qemu(debian, {"python": python, **drives}, folder / "console.log")
        say(f"booting ({'virtualised' if 'kvm' in command else 'emulated'}) ...")
        _execute(command, timeout, folder / "console.log", folder)
        say(f"switched off after {time.monotonic() - started:.0f} s")
        status = _unpack(drives["results"], folder / "console.log", results)
    return Outcome(status, results, time.monotonic() - started)


def _request(script: str) -> bytes:
    """A tar file, padded as a disk must be (which a tar file is)."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in (("main", _MAIN.read_text()), ("checkout", str(disks.ROOT)), ("script", script)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def _execute(command: Sequence[str], timeout: float, console: Path, folder: Path) -> None:
    try:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},  # what the machine writes to its disks
        )
    except FileNotFoundError as error:
        raise EnvironmentLacks("setpriv not found; remedy: make setup-vm") from error
    with process:
        timer = threading.Timer(timeout, process.kill)
        timer.start()
        try:
            assert process.stdout is not None
            for line in io.TextIOWrapper(process.stdout, errors="replace"):
                sys.stdout.write(line)
                sys.stdout.flush()
            process.wait()
        finally:
            timer.cancel()
            process.kill()
    if process.returncode:
        said = "\n".join(f"  {line}" for line in _text(console).splitlines()[-_SHOWN_LINES:])
        what = f"did not switch off in {timeout:.0f} s" if process.returncode == -9 else "could not run"
        raise EnvironmentLacks(f"the virtual machine {what} (status {process.returncode}); its console:\n{said}")


def _unpack(disk: Path, console: Path, results: Path) -> int:
    results.mkdir(parents=True, exist_ok=True)
    for name in _RESULTS:
        (results / name).unlink(missing_ok=True)
    (results / "console.log").write_text(_text(console))
    try:
        with tarfile.open(disk) as archive:
            archive.extractall(results)
        return int((results / "status").read_text())
    except (tarfile.TarError, FileNotFoundError, ValueError) as error:
        said = "\n".join(f"  {line}" for line in _text(console).splitlines()[-_SHOWN_LINES:])
        raise EnvironmentLacks(f"the virtual machine left no results ({error}); its console:\n{said}") from error


def _text(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""

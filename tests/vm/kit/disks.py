"""The machine's disks: Debian made once, the checkout with its Python as they are.

Debian's disk lies in the user's cache, with the kernel and the initial file system taken from it, in a folder named by
a hash of what it was made from; remove that folder to have newer packages. The packages are those that ``make setup``
installs, so whatever a tier needs is there. Python's is of the checkout, whose path is in it; it is made anew when what
``make setup`` put there changes.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import EnvironmentLacks
from tests.e2e.kit import build
from tests.e2e.kit.build import cache_folder, locked
from tests.e2e.kit.debian import MERGING, bootstrap, merging_hooks, run
from tests.e2e.kit.images import write_archive
from tests.e2e.kit.mesh_images import sandbox_image

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".build" / "vm"
SERVICE = Path(__file__).parent / "guest" / "ambimesh-tests.service"
"""What the machine does when it is up: it runs the request's ``main``."""
HEADERS = "/opt/ambimesh/kernel-headers"
"""Where the machine has kernel headers as bcc wants them."""
_SYSTEM = (
    "linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "udev", "kmod", "dbus",
    "containerd", "runc",  # what kubelet has pods run by
)  # fmt: skip
_MASKED = (
    "containerd.service", "nginx.service", "redis-server.service",
    "serial-getty@ttyS0.service", "serial-getty@hvc0.service", "getty@tty1.service",
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "logrotate.timer", "systemd-networkd-wait-online.service",
)  # fmt: skip
"""What nobody needs here, or would run beside the tests."""
_INITIAL_MODULES = ("virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "crc32c_intel")
_BUILT = ("bin", "compiled", "debian")
"""Of ``.build``, what the programs use."""
_SPARE_BYTES = 1 << 30

KUBELET = ROOT / ".build" / "node" / "kubelet"
PAUSE_IMAGE = ROOT / ".build" / "node" / "pause.tar"
"""Of the machine: kubelet and the image of sandboxes, where `make kubernetes` has built Kubernetes."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Debian:
    """What a machine boots from."""

    disk: Path
    kernel: Path
    initial: Path
    """The initial file system."""


def debian(say: Say) -> Debian:
    """Debian's disk, made when it is missing (some two minutes); of several at once the first makes it.

    Raises:
        EnvironmentLacks: mmdebstrap or mkfs.ext4 is missing or failed.
    """
    packages = [*_packages(), *_SYSTEM]
    folder = cache_folder().with_name("vm") / f"debian-{_debian_key(packages)}"
    made = Debian(folder / "root.img", folder / "vmlinuz", folder / "initrd.img")
    with locked(folder.with_suffix(".lock")):
        if not made.initial.exists():
            say("Debian's disk, made once ...")
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                root = Path(scratch) / "root"
                merging = Path(scratch) / "merging"
                merging.mkdir()
                hooks = [*merging_hooks(merging, HEADERS), *_hooks()]
                bootstrap("Debian", root, packages, form="directory", hooks=hooks)
                file_system(made.disk, root, spare=4 * _SPARE_BYTES)
                shutil.copy(_only(root / "boot", "vmlinuz-*"), made.kernel)
                # The last one: where it is, all is there.
                shutil.copy(_only(root / "boot", "initrd.img-*"), made.initial)
    return made


def python_disk() -> Path:
    """The checkout's ``.venv``.

    Raises:
        EnvironmentLacks: the checkout is not set up, or mkfs.ext4 failed.
    """
    environment = ROOT / ".venv"
    stamps = [ROOT / ".build" / "stamps" / name for name in ("environment", "checkout")]
    for needed in (environment / "bin/python", *stamps):
        if not needed.exists():
            raise EnvironmentLacks(f"{needed} is missing; remedy: make setup")
    key = "".join(stamp.read_text() for stamp in stamps)
    disk, noted = FOLDER / "python.img", FOLDER / "python.stamp"
    with locked(FOLDER / "python.lock"):
        if not (disk.exists() and noted.exists() and noted.read_text() == key):
            noted.unlink(missing_ok=True)
            file_system(disk, environment)
            noted.write_text(key)
    return disk


def checkout_disk(disk: Path) -> None:
    """The files of the checkout as they are, and what ``make setup`` built of them.

    Raises:
        EnvironmentLacks: mkfs.ext4 failed.
    """
    with tempfile.TemporaryDirectory(dir=disk.parent) as scratch:
        tree = Path(scratch)
        for file in _files():
            target = tree / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target, follow_symlinks=False)
            # Python's own compiled form, where the same source has been imported here: it saves the machine the work.
            for kept in (ROOT / file.parent / "__pycache__").glob(f"{file.stem}.*.pyc") if file.suffix == ".py" else ():
                (target.parent / "__pycache__").mkdir(exist_ok=True)
                shutil.copy2(kept, target.parent / "__pycache__")
        for name in _BUILT:
            if (ROOT / ".build" / name).exists():
                shutil.copytree(ROOT / ".build" / name, tree / ".build" / name, symlinks=True)
        (tree / ".venv").mkdir()
        _copy_kubelet(tree / KUBELET.relative_to(ROOT), tree / PAUSE_IMAGE.relative_to(ROOT))
        file_system(disk, tree)


def _copy_kubelet(program: Path, archive: Path) -> None:
    if build.KUBERNETES.built:
        program.parent.mkdir(parents=True)
        shutil.copy(build.program("kubelet").resolve(), program)
        with archive.open("wb") as stream:
            write_archive(stream, [sandbox_image()])


def file_system(disk: Path, tree: Path, spare: int = _SPARE_BYTES) -> None:
    """A disk that holds a folder's contents, and so many bytes more.

    Raises:
        EnvironmentLacks: mkfs.ext4 is missing or failed.
    """
    used = int(subprocess.run(["du", "-s", "-B1", tree], capture_output=True, text=True, check=True).stdout.split()[0])
    disk.parent.mkdir(parents=True, exist_ok=True)
    unfinished = disk.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    # Nothing of it outlives a run, so it needs no journal; inodes: one for each 4 KiB, since sources are small.
    options = ["-q", "-F", "-m", "0", "-i", "4096", "-O", "^has_journal,^metadata_csum", "-E", "root_owner=0:0"]
    size = (used + used // 8 + spare) >> 20
    run("a disk", "mkfs.ext4", *options, "-d", tree, unfinished, f"{size}M")
    unfinished.replace(disk)


def _hooks() -> list[str]:
    modules = "\\n".join(_INITIAL_MODULES)
    initial = '"$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"'
    return [
        # Before the kernel comes, so that its initial file system is the small one.
        f"--essential-hook=mkdir -p {initial}",
        '--essential-hook=printf "MODULES=list\\nCOMPRESS=gzip\\n" >"$1/etc/initramfs-tools/conf.d/ambimesh"',
        f'--essential-hook=printf "{modules}\\n" >"$1/usr/share/initramfs-tools/modules.d/ambimesh"',
        '--customize-hook=echo ambimesh >"$1/etc/hostname"; echo "127.0.0.1 localhost ambimesh" >"$1/etc/hosts"',
        f'--customize-hook=echo {shlex.quote(SERVICE.read_text())} >"$1/etc/systemd/system/{SERVICE.name}"',
        f'--customize-hook=systemctl --root="$1" enable {SERVICE.name}',
        f'--customize-hook=systemctl --root="$1" mask {" ".join(_MASKED)}',
        '--customize-hook=rm -rf "$1/var/cache/apt/archives" "$1/var/lib/apt/lists"',
    ]


def _debian_key(packages: Iterable[str]) -> str:
    digest = hashlib.sha256("\n".join((*packages, *_hooks())).encode())
    for file in MERGING:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _packages() -> list[str]:
    """What ``make setup`` installs."""
    script = ROOT / "scripts" / "setup.sh"
    return subprocess.run(["bash", script, "list"], capture_output=True, text=True, check=True).stdout.split()


def _files() -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and os.path.lexists(ROOT / (path := Path(name)))]


def _only(folder: Path, pattern: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise EnvironmentLacks(f"Debian's disk has {len(found)} files {pattern}, not one: see what apt installs")
    return found[0]

"""What a node's containerd has on its disk before it starts: the layers that seldom change, unpacked once and kept.

Unpacking Debian, Python and a compiler takes half a minute and two gigabytes for each node, and removing it may take
longer. So a containerd on a machine of its own unpacks them into a folder of the cache, and nodes get hard links to it:
neither layers nor what is unpacked of them is ever written to. containerd's databases, which are, are copied.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import EnvironmentLacks
from tests.e2e.kit.build import locked
from tests.e2e.kit.images import Image, Layer, layers_folder, write_archive
from tests.e2e.kit.node import Node
from tests.e2e.kit.segment import segment

_NAME = "containerd-"
_DATABASES = "*.db"


@dataclass(frozen=True, slots=True)
class Store:
    """A containerd's folder, with layers in it."""

    folder: Path
    layers: Sequence[Layer]

    def copy_to(self, target: Path) -> None:
        """Give a node these contents; ``target`` is its folder of containerd, empty.

        Raises:
            EnvironmentLacks: it cannot be written.
        """
        copy = ["cp", "--archive", "--no-target-directory"]
        linked = subprocess.run([*copy, "--link", self.folder, target], capture_output=True, text=True, check=False)
        if linked.returncode:
            # Another file system.
            shutil.rmtree(target)
            copied = subprocess.run([*copy, self.folder, target], capture_output=True, text=True, check=False)
            if copied.returncode:
                raise EnvironmentLacks(f"{self.folder} cannot be copied to {target}: {copied.stderr.strip()}")
        for database in target.rglob(_DATABASES):
            content = database.read_bytes()
            database.unlink()
            database.write_bytes(content)


def image_store(images: Sequence[Image], pause: Path) -> Store:
    """A store of the layers of these images, in this order from the bottom; found, or made now.

    Older ones are removed: each takes gigabytes.

    Raises:
        EnvironmentLacks: containerd is not installed, or refused them.
        NotServing: it did not come up.
    """
    key = hashlib.sha256(b"".join(image.configuration() for image in images)).hexdigest()[:12]
    folder = layers_folder() / f"{_NAME}{key}"
    with locked(layers_folder() / "containerd.lock"):
        if not folder.exists():
            for older in layers_folder().glob(f"{_NAME}*"):
                if older.is_dir():
                    shutil.rmtree(older)
            with tempfile.TemporaryDirectory(dir=layers_folder(), prefix="unpacking-") as work:
                _unpack(images, pause, Path(work)).rename(folder)
    return Store(folder, [layer for image in images for layer in image.layers])


def _unpack(images: Sequence[Image], pause: Path, work: Path) -> Path:
    with segment(pause, work) as network:
        machine = Node(1, 1, network, pause, work)
        try:
            machine.boot()
            machine.start_runtime()
            import_images(machine, images)
        finally:
            machine.kill()
    return machine.containerd_folder


def import_images(node: Node, images: Sequence[Image], stored: Sequence[Layer] = ()) -> None:
    """Give images to a node's containerd, which has the layers ``stored``.

    Raises:
        EnvironmentLacks: it refused them.
    """
    command = node.command("ctr", "--namespace=k8s.io", "images", "import", "-")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            write_archive(process.stdin, images, stored)
            process.stdin.close()
        except BrokenPipeError:
            pass  # it says why
        said = process.stdout.read().decode(errors="replace")
    if process.returncode:
        raise EnvironmentLacks(f"{node.name} did not take the images: {said[-2000:]}")

"""Container images without a container engine: layers are tar files, an image is a list of them.

Images are written as an OCI image layout in a tar file, which containerd imports. Layers are made once for what
goes into them and kept beside the programs; so a change of the project makes a new layer of the project's own files
only.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.e2e.kit.build import cache_folder, locked
from tests.e2e.kit.debian import architecture

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A tar file and its SHA-256."""

    file: Path
    digest: str


@dataclass(frozen=True, slots=True)
class Image:
    """What a container is made from."""

    name: str
    """With its tag: ``localhost/test:1``."""
    layers: Sequence[Layer]
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def configuration(self) -> bytes:
        """The image's configuration, JSON; the same for the same image."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return json.dumps(
            {
                "architecture": architecture(),
                "os": "linux",
                "config": {"Cmd": list(self.command), "Env": variables},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in self.layers]},
                "history": [{"created_by": "ambimesh test kit"} for _ in self.layers],
            },
            sort_keys=True,
        ).encode()


def layers_folder() -> Path:
    """Where layers are kept."""
    return cache_folder().with_name("images")


def kept_layer(name: str, inputs: Iterable[str | bytes], make: Callable[[Path], None]) -> Layer:
    """The layer made from these inputs: found, or made now by ``make``, which writes a tar file to a path.

    Of several at once the first makes it, and the others wait for it.
    """
    key = hashlib.sha256()
    for item in inputs:
        content = item.encode() if isinstance(item, str) else item
        key.update(len(content).to_bytes(8, "big") + content)
    file = layers_folder() / f"{name}-{key.hexdigest()[:12]}.tar"
    noted = file.with_suffix(".sha256")
    with locked(layers_folder() / f"{name}.lock"):
        if not noted.exists():
            unfinished = file.with_suffix(".unfinished")
            try:
                make(unfinished)
                digest = digest_of(unfinished)
                unfinished.replace(file)
            finally:
                unfinished.unlink(missing_ok=True)
            noted.write_text(digest)
        return Layer(file, noted.read_text())


def digest_of(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_tree(file: Path, trees: Mapping[str, Path | bytes | str]) -> None:
    """Write a layer: by the path in the image a file or folder to be copied, a file's bytes, or a link's target.

    Owners and times are left out, so the same contents give the same layer.
    """
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for place, source in sorted(trees.items()):
            if isinstance(source, Path):
                archive.add(source, place, filter=_plain)
            else:
                entry = tarfile.TarInfo(place)
                entry.mode = 0o755
                if isinstance(source, str):
                    entry.type, entry.linkname = tarfile.SYMTYPE, source
                    archive.addfile(entry)
                else:
                    entry.size = len(source)
                    archive.addfile(entry, io.BytesIO(source))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.name.endswith((".pyc", "/__pycache__")):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


def tree_layer(name: str, trees: Mapping[str, Path | bytes | str]) -> Layer:
    """A layer of files that change often: made in any case, kept under the digest of what it became."""
    layers_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=layers_folder(), prefix=f"{name}-", suffix=".unfinished") as made:
        write_tree(Path(made.name), trees)
        digest = digest_of(Path(made.name))

        def move(target: Path) -> None:
            os.link(made.name, target)

        return kept_layer(name, [digest], move)


def write_archive(stream: IO[bytes], images: Sequence[Image], stored: Iterable[Layer] = ()) -> None:
    """Write images as one archive, an OCI image layout.

    Args:
        stream: need not be able to seek.
        images: layers that they share are in it once.
        stored: layers that whoever reads it has already; they are left out.
    """
    there = {layer.digest for layer in stored}
    manifests = []
    with tarfile.open(fileobj=stream, mode="w|", bufsize=_BLOCK) as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        for image in images:
            configuration = _blob(archive, image.configuration())
            layers = []
            for layer in image.layers:
                size = layer.file.stat().st_size
                layers.append(_descriptor("layer.v1.tar", layer.digest, size))
                if layer.digest not in there:
                    there.add(layer.digest)
                    entry = tarfile.TarInfo(_BLOBS + layer.digest)
                    entry.size = size
                    with layer.file.open("rb") as opened:
                        archive.addfile(entry, opened)
            manifest = {
                "schemaVersion": 2,
                "mediaType": _TYPE + "manifest.v1+json",
                "config": _descriptor("config.v1+json", *configuration),
                "layers": layers,
            }
            described = _descriptor("manifest.v1+json", *_blob(archive, json.dumps(manifest).encode()))
            manifests.append(described | {"annotations": {"io.containerd.image.name": image.name}})
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())


_TYPE = "application/vnd.oci.image."
_BLOBS = "blobs/sha256/"


def _descriptor(kind: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": _TYPE + kind, "digest": f"sha256:{digest}", "size": size}


def _blob(archive: tarfile.TarFile, content: bytes) -> tuple[str, int]:
    digest = hashlib.sha256(content).hexdigest()
    _add(archive, _BLOBS + digest, content)
    return digest, len(content)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))

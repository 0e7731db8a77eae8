"""Builds the images without a container engine: ``python scripts/image.py context|build|containerfile [NAME ...]``.

``context`` makes the folder that a Containerfile is built in: ``.build/images/NAME/context``. ``build`` makes the same
file system from that very context with debootstrap, as root: the base once, then for each component a copy of it, in
which ``deploy/images/install.sh`` runs. It then tries the result in a chroot (every module is imported, the program
starts, the compiled modules are used, bcc compiles) and writes a bill of materials and an archive that ``ctr images
import`` and ``podman load`` take.

``containerfile`` builds the Containerfiles themselves, with buildah on a base of debootstrap's, and tries the results
the same way.

Packages come from wherever this machine's apt and pip are told to look; no address stands here.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.image_compiled import copy_compiled  # noqa: E402 -- found by the line above
from scripts.image_containerfile import Buildah, differences  # noqa: E402
from scripts.image_requirements import needed  # noqa: E402

IMAGES = ROOT / "deploy" / "images"
FOLDER = ROOT / ".build" / "images"
SUITE = "bookworm"
HOME = "opt/ambimesh"
_PATH = "/opt/ambimesh/venv/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OF_PROXIES = {"AMBIMESH_COMPILED": "/opt/ambimesh/compiled", "OPENSSL_CONF": "/opt/ambimesh/mesh/tls/openssl.cnf"}
"""In the environment of what moves connections' bytes."""
_IGNORED = shutil.ignore_patterns("__pycache__", "*.proto")
_IMPORTS = """
import importlib, pathlib, sys
count = 0
for top in sys.argv[1:]:
    base = pathlib.Path('/opt/ambimesh') / ('operator' if top == 'controlplane' else '')
    for file in sorted((base / top).rglob('*.py')):
        parts = file.relative_to(base).with_suffix('').parts
        if 'testing' in parts or parts[-1] in ('__main__', 'generate'):
            continue
        importlib.import_module('.'.join(part for part in parts if part != '__init__'))
        count += 1
print(count, 'modules')
"""


def components() -> dict[str, dict[str, Any]]:
    """What each image holds."""
    with (IMAGES / "components.toml").open("rb") as file:
        return tomllib.load(file)


def version() -> str:
    """The project's."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def make_context(name: str, folder: Path) -> Path:
    """Write the context of a component; returns its folder.

    Raises:
        SystemExit: something that ``make setup`` builds is not there.
    """
    component = components()[name]
    context = folder / name / "context"
    shutil.rmtree(context, ignore_errors=True)
    home = context / "root" / HOME
    home.mkdir(parents=True)
    for source in component["sources"]:
        shutil.copytree(ROOT / source, home / source, ignore=_IGNORED)
        shutil.rmtree(home / source / "testing", ignore_errors=True)
    # What importlib.metadata answers a component that asks for its own version; the folder is in Python's path.
    metadata = home / f"ambimesh-{version()}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: ambimesh\nVersion: {version()}\n")
    if component.get("compiled"):
        copy_compiled(_built("compiled"), home / "compiled", component["sources"])
    if component.get("plugin"):
        (home / "bin").mkdir()
        shutil.copy2(_built("bin/ambimesh-cni"), home / "bin")
    if component.get("headers"):
        (context / "with-headers").touch()
    if name == "waypoint":
        (context / "root/etc/ambimesh").mkdir(parents=True)
        shutil.copy(IMAGES / "waypoint.yaml", context / "root/etc/ambimesh")
    lock = (ROOT / "requirements" / "runtime.txt").read_text()
    (context / "requirements.txt").write_text(needed(lock, component["distributions"]))
    packages = [package for each in component["packages"] for package in package_list(each)]
    (context / "packages.txt").write_text("".join(f"{package}\n" for package in packages))
    shutil.copy(IMAGES / "install.sh", context)
    shutil.copy(ROOT / "scripts" / "image_sbom.py", context)
    (context / "image.txt").write_text(f"ambimesh-{name} {version()}\n")
    return context


def package_list(name: str) -> list[str]:
    """The Debian packages of a list in ``deploy/images``: one a line, ``#`` begins a comment, ``ARCH`` is Debian's."""
    lines = (line.partition("#")[0].strip() for line in (IMAGES / f"{name}.packages").read_text().splitlines())
    return [line.replace("ARCH", _architecture()) for line in lines if line]


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _built(name: str) -> Path:
    path = ROOT / ".build" / name
    if not path.exists():
        sys.exit(f"image: {path} is not there; remedy: make setup")
    return path


def make_base(folder: Path) -> Path:
    """Debian's smallest system, made once; returns its root."""
    base = folder / "base"
    if (base / ".complete").exists():
        return base
    shutil.rmtree(base, ignore_errors=True)
    base.parent.mkdir(parents=True, exist_ok=True)
    _run(["debootstrap", "--variant=minbase", SUITE, str(base)], log=folder / "base.log")
    shutil.rmtree(base / "var/cache/apt/archives", ignore_errors=True)
    (base / ".complete").touch()
    return base


def make_whole_context(name: str, folder: Path) -> Path:
    """A component's context with its Python packages, for where nobody else fetches them; returns its folder."""
    context = make_context(name, folder)
    requirements = context / "requirements.txt"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    _run([*pip, "--only-binary", ":all:", "-d", str(context / "wheels"), "-r", str(requirements)])
    return context


def make_root(name: str, folder: Path) -> Path:
    """A component's file system; returns its root."""
    context, base = make_whole_context(name, folder), make_base(folder)
    root = folder / name / "root"
    shutil.rmtree(root, ignore_errors=True)
    _run(["cp", "-a", str(base), str(root)])
    (root / ".complete").unlink()
    _run(["cp", "-a", str(context), str(root / "context")])
    with _as_this_machine(root):
        _run(["chroot", str(root), "sh", "/context/install.sh"], log=folder / name / "install.log")
    shutil.rmtree(root / "context")
    shutil.copy(root / HOME / "sbom.cdx.json", folder / name)
    return root


@contextmanager
def _as_this_machine(root: Path) -> Iterator[None]:
    """Let apt inside look where apt outside looks."""
    kept: list[tuple[Path, bytes | None]] = []
    for source in [Path("/etc/resolv.conf"), *_apt_files()]:
        target = root / source.relative_to("/")
        kept.append((target, target.read_bytes() if target.is_file() else None))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(source.read_bytes())
    try:
        yield
    finally:
        for target, before in kept:
            target.unlink(missing_ok=True)
            if before is not None:
                target.write_bytes(before)


def _apt_files() -> list[Path]:
    places = ("etc/apt/sources.list", "etc/apt/sources.list.d/*", "etc/apt/apt.conf.d/*", "etc/apt/auth.conf.d/*")
    skipped = {"20packagekit", "50appstream"}  # hooks of programs that the image does not have
    found = [path for place in places for path in sorted(Path("/").glob(place))]
    return [path for path in found if path.is_file() and path.name not in skipped]


def try_root(name: str, root: Path) -> list[str]:
    """Start what is in a component's file system; what was seen.

    Raises:
        SystemExit: something does not work.
    """
    component = components()[name]
    module, seen = component["module"], []
    environment = {"PATH": _PATH, "PYTHONPATH": "/opt/ambimesh:/opt/ambimesh/operator", "PYTHONDONTWRITEBYTECODE": "1"}
    if component.get("compiled"):
        environment |= _OF_PROXIES
    tops = ["controlplane" if source == "operator" else source for source in component["sources"]]
    # As the user that the image names, in a mount namespace of its own whose /proc and /dev go with it.
    user = str(component["user"])
    for mounted in ("proc", "dev"):
        (root / mounted).mkdir(exist_ok=True)
    mounts = f"mount -t proc proc {root}/proc && mount --rbind /dev {root}/dev"
    enter = f"{mounts} && exec chroot --userspec={user}:{user} {root} "
    versions = ["python", "-c", "from importlib.metadata import version; print(version('ambimesh'))"]
    commands = {"version": versions, "imports": ["python", "-c", _IMPORTS, *tops]}
    commands["bill of materials"] = ["python", "-c", _BILL]
    commands["starts"] = ["python", "-m", module, "--help"]
    commands["refuses a wrong file"] = ["sh", "-c", f"! python -m {module} --config /etc/hostname 2>&1"]
    if component.get("compiled"):
        commands["compiled form"] = ["python", "-c", _FORM, module]
    if component.get("headers"):
        commands["eBPF compiler"] = ["python", "-c", _COMPILE]
    if component.get("plugin"):
        commands["CNI plugin"] = ["sh", "-c", "CNI_COMMAND=VERSION /opt/ambimesh/bin/ambimesh-cni </dev/null"]
    for what, command in commands.items():
        quoted = " ".join(_quoted(part) for part in ("env", *(f"{k}={v}" for k, v in environment.items()), *command))
        ran = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", enter + quoted],
            env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
        )  # fmt: skip
        if ran.returncode:
            sys.exit(f"image: {name}: {what}: {command} ended with {ran.returncode}:\n{ran.stdout}{ran.stderr}")
        said = (ran.stdout.strip() or ran.stderr.strip()).splitlines()
        seen.append(f"{what}: {said[-1].strip()[:100] if said else 'ok'}")
    return seen


_FORM = """
import importlib, sys
from mesh import compiled
form = compiled.choose()
assert form.compiled, form.detail
importlib.import_module(sys.argv[1] + '.app')
used = [name for name, module in sys.modules.items() if str(getattr(module, '__file__', '')).startswith(form.detail)]
print(form.name, len(used), 'modules of', form.detail)
assert any(name.startswith(sys.argv[1] + '.') for name in used)
"""
_BILL = """
import json, sys
from importlib.metadata import distributions
listed = {each['name'] for each in json.load(open('/opt/ambimesh/sbom.cdx.json'))['components']}
site = [place for place in sys.path if place.startswith(sys.prefix) and place.endswith('site-packages')]
there = {each.metadata['Name'].lower().replace('_', '-') for each in distributions(path=site)}
assert there and there <= listed, there - listed
packages = {line[9:].strip() for line in open('/var/lib/dpkg/status') if line.startswith('Package: ')}
assert 'dpkg' in packages & listed, 'no Debian packages'
print(len(listed), 'components,', len(there), 'of Python')
"""
_COMPILE = """
import os
os.environ['BCC_KERNEL_SOURCE'] = '/opt/ambimesh/kernel-headers'
from ebpf.headers import find_headers
import bcc
module = bcc.BPF(text='#include <linux/tcp.h>\\nint program(struct __sk_buff *skb) { return 1; }')
print('bcc', bcc.__version__, 'compiles with', find_headers())
"""


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def build_containerfile(name: str, folder: Path, builder: Buildah) -> list[str]:
    """Build a component's Containerfile and try it; what was seen.

    Raises:
        SystemExit: it cannot be built, does not work, or says otherwise how it is run than the archive does.
    """
    tag = f"localhost/ambimesh-{name}:{version()}"
    builder.build(IMAGES / f"{name}.Containerfile", make_whole_context(name, folder), tag)
    if wrong := differences(builder.settings(tag), settings_of(name)):
        sys.exit(f"image: {name}.Containerfile: {'; '.join(wrong)}")
    return try_root(name, builder.mounted(tag))


def settings_of(name: str) -> dict[str, Any]:
    """How a component's image is run."""
    component = components()[name]
    variables = [f"PATH={_PATH}", "PYTHONPATH=/opt/ambimesh:/opt/ambimesh/operator", "PYTHONDONTWRITEBYTECODE=1"]
    if component.get("compiled"):
        variables += [f"{key}={value}" for key, value in _OF_PROXIES.items()]
    if component.get("headers"):
        variables.append("BCC_KERNEL_SOURCE=/opt/ambimesh/kernel-headers")
    entry = ["python", "-m", component["module"]]
    return {"Env": variables, "Entrypoint": entry, "User": f"{component['user']}:{component['user']}"}


def write_archive(name: str, root: Path, target: Path) -> str:
    """A component's file system as an image archive; returns its name with tag."""
    tag = f"localhost/ambimesh-{name}:{version()}"
    pack(root, tag, settings_of(name), target)
    return tag


def pack(root: Path, tag: str, settings: dict[str, Any], target: Path) -> None:
    """A folder as an image archive of one layer. The same folder makes the same bytes."""
    layer = target.with_suffix(".layer")
    reproducible = ["--sort=name", "--numeric-owner", "--mtime=@0", "--exclude=./dev/*", "--exclude=./proc/*"]
    _run(["tar", *reproducible, "-C", str(root), "-cf", str(layer), "."])
    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = json.dumps({"architecture": _architecture(), "os": "linux", "config": settings, "rootfs": rootfs}).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [tag], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w") as archive:
        for file, data in ((config_name, config), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        entry = tarfile.TarInfo("layer.tar")
        entry.size = layer.stat().st_size
        with layer.open("rb") as stream:
            archive.addfile(entry, stream)
    layer.unlink()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _run(command: Sequence[str], log: Path | None = None) -> None:
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(ran.stdout)
    if ran.returncode:
        end = "\n".join(ran.stdout.splitlines()[-20:])
        sys.exit(f"image: {' '.join(command[:4])} ... ended with {ran.returncode}:\n{end}")


def main() -> int:
    """Make contexts or images; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the images' file systems without a container engine.")
    parser.add_argument("action", choices=["context", "build", "containerfile"])
    parser.add_argument("names", nargs="*", metavar="COMPONENT", help="all when left out")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default %(default)s")
    options = parser.parse_args()
    unknown = set(options.names) - set(components())
    if unknown:
        parser.error(f"no such component: {', '.join(sorted(unknown))}; there are {', '.join(components())}")
    if options.action == "containerfile":
        builder = Buildah(options.folder)
        builder.base(make_base(options.folder), [Path("/etc/resolv.conf"), *_apt_files()])
        for name in options.names or components():
            for line in build_containerfile(name, options.folder, builder):
                _say(f"image: {name}.Containerfile: {line}")
        builder.forget()
        return 0
    for name in options.names or components():
        if options.action == "context":
            _say(str(make_context(name, options.folder)))
            continue
        root = make_root(name, options.folder)
        for line in try_root(name, root):
            _say(f"image: {name}: {line}")
        archive = options.folder / f"ambimesh-{name}.tar"
        tag = write_archive(name, root, archive)
        _say(f"image: {name}: {tag}, {archive.stat().st_size / 1e6:.0f} MB, in {archive}")
        shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The images of a test cluster: the mesh's four, an application's, CoreDNS and the sandbox.

``python -m tests.e2e.kit.mesh_images`` makes all of them.

Each has three layers. Debian's part has the packages of the lists in ``deploy/images``; mmdebstrap makes it in a
minute, and it is kept: remove the cache's folder ``images`` to have newer packages. Python's part is a virtual
environment, ``/opt/ambimesh/venv``, with the locked packages of ``requirements/runtime.txt``. The project's is the
checkout as it is, in ``/opt/ambimesh``.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
import tomllib
from pathlib import Path

from mesh.errors import EnvironmentLacks
from scripts.image import components, make_context
from tests.e2e.kit import build
from tests.e2e.kit.debian import MERGING, architecture, bootstrap, merging_hooks, run
from tests.e2e.kit.image_store import image_store
from tests.e2e.kit.images import Image, Layer, kept_layer, tree_layer, write_tree
from tests.e2e.kit.node_files import SANDBOX_IMAGE

ROOT = Path(__file__).parents[3]
LISTS = ROOT / "deploy/images"
HOME = "opt/ambimesh"
VENV = f"{HOME}/venv"
SITE = f"{VENV}/lib/python3.11/site-packages"
_SOURCES_OF_THE_APPLICATION = ("mesh",)
_MODULE_OF = {"operator": "controlplane", "agent": "cni"}
MESH_COMPONENTS = ("operator", "agent", "ztunnel", "waypoint")
ENVIRONMENT = {
    "PATH": f"/{VENV}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": f"/{HOME}:/{HOME}/operator",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_OF_PROXIES = {"AMBIMESH_COMPILED": f"/{HOME}/compiled", "OPENSSL_CONF": f"/{HOME}/mesh/tls/openssl.cnf"}
_ENVIRONMENT_OF = {
    "agent": {"BCC_KERNEL_SOURCE": f"/{HOME}/kernel-headers"},
    "waypoint": _OF_PROXIES,
    "ztunnel": _OF_PROXIES,
}
APPLICATION_IMAGE = "localhost/application:1"
"""Python, the mesh's packages, and the programs of ``application`` as ``/application``."""
COREDNS_IMAGE = "localhost/coredns:1"


def package_list(name: str) -> list[str]:
    """The Debian packages of a list in ``deploy/images``."""
    lines = (re.sub(r"#.*", "", line).strip() for line in (LISTS / f"{name}.packages").read_text().splitlines())
    return [line.replace("ARCH", architecture()) for line in lines if line]


def pause_program() -> Path:
    """The program that sandboxes and nodes have as process 1; compiled when it is missing.

    Raises:
        EnvironmentLacks: there is no C compiler, or it failed.
    """
    source = build.SOURCES / "pause.c"
    options = ["-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror"]
    made = kept_layer("pause", [source.read_bytes()], lambda file: run("pause", "gcc", *options, source, "-o", file))
    made.file.chmod(0o755)
    return made.file


def sandbox_image() -> Image:
    """What holds a pod's namespaces."""
    return Image(SANDBOX_IMAGE, [tree_layer("sandbox", {"pause": pause_program()})], ["/pause"])


def coredns_image() -> Image:
    """The cluster's DNS.

    Raises:
        EnvironmentLacks: it has not been built.
    """
    layer = tree_layer("coredns", {"coredns": build.program("coredns"), "etc/resolv.conf": b""})
    return Image(COREDNS_IMAGE, [layer], ["/coredns"])


def application_image() -> Image:
    """What the pods of tests run.

    Raises:
        EnvironmentLacks: as `mesh_images`.
    """
    application = tree_layer("application", {"application": Path(__file__).parent / "application"})
    layers = [debian_layer("base"), python_layer(), project_layer(), application]
    return Image(APPLICATION_IMAGE, layers, ["sleep", "infinity"], ENVIRONMENT)


def project_version() -> str:
    """The project's, which its images are tagged with."""
    with (ROOT / "pyproject.toml").open("rb") as opened:
        return str(tomllib.load(opened)["project"]["version"])


def mesh_image(component: str) -> str:
    """The name of a component's image."""
    return f"localhost/ambimesh-{component}:{project_version()}"


def mesh_images() -> list[Image]:
    """The mesh's, one for each of `MESH_COMPONENTS`.

    Raises:
        EnvironmentLacks: mmdebstrap or pip is missing or failed; the checkout is not set up.
    """
    python = python_layer()
    return [
        Image(
            mesh_image(component),
            [debian_layer(*components()[component]["packages"]), python, component_layer(component)],
            ["python", "-m", _MODULE_OF.get(component, component)],
            {**ENVIRONMENT, **_ENVIRONMENT_OF.get(component, {})},
        )
        for component in MESH_COMPONENTS
    ]


def foundations() -> list[Image]:
    """What the other images stand on, which changes seldom.

    Raises:
        EnvironmentLacks: as `mesh_images`.
    """
    python = python_layer()
    return [
        Image("localhost/foundation:base", [debian_layer("base"), python]),
        Image("localhost/foundation:agent", [debian_layer("base", "agent"), python]),
    ]


def debian_layer(*lists: str) -> Layer:
    """A minimal Debian with the packages of these lists, and kernel headers as bcc wants them where there are any.

    Raises:
        EnvironmentLacks: mmdebstrap is missing, or failed.
    """
    packages = [package for name in lists for package in package_list(name)]
    merging = [module.read_bytes() for module in MERGING] if "agent" in lists else []

    def make(file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            hooks = merging_hooks(Path(folder), f"/{HOME}/kernel-headers") if merging else []
            bootstrap("Debian's part", file, packages, hooks=hooks)

    return kept_layer("-".join(("debian", *lists)), [*packages, *merging], make)


def python_layer() -> Layer:
    """The virtual environment with what the project needs at run time, locked.

    Raises:
        EnvironmentLacks: pip failed.
    """
    lock = ROOT / "requirements/runtime.txt"
    around: dict[str, Path | bytes | str] = {
        f"{VENV}/pyvenv.cfg": b"home = /usr/bin\ninclude-system-site-packages = false\n",
        f"{VENV}/bin/python": "/usr/bin/python3",
        f"{VENV}/bin/python3": "/usr/bin/python3",
        # Only bcc of Debian's packages is let in.
        f"{HOME}/debian/bcc": "/usr/lib/python3/dist-packages/bcc",
        f"{SITE}/debian-bcc.pth": f"/{HOME}/debian\n".encode(),
    }

    def make(file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-compile"]
            options += ["--require-hashes", "--only-binary", ":all:"]
            run("Python's part", sys.executable, "-m", "pip", "install", *options, "--target", folder, "-r", lock)
            write_tree(file, {**around, SITE: Path(folder)})

    return kept_layer("python", [lock.read_bytes(), repr(sorted(around.items()))], make)


def project_layer() -> Layer:
    """What the application's programs use of the checkout as it is now."""
    return tree_layer("project", {f"{HOME}/{name}": ROOT / name for name in _SOURCES_OF_THE_APPLICATION})


def component_layer(component: str) -> Layer:
    """Of the checkout as it is now, with what ``make setup`` built of it, just what the component's image holds.

    Raises:
        EnvironmentLacks: it is not set up.
    """
    for built in (ROOT / ".build/bin/ambimesh-cni", ROOT / ".build/compiled"):
        if not built.exists():
            raise EnvironmentLacks(f"{built} is missing; remedy: make setup")
    with tempfile.TemporaryDirectory() as folder:
        root = make_context(component, Path(folder)) / "root"
        return tree_layer(f"project-{component}", {entry.name: entry for entry in root.iterdir()})


def main() -> None:
    """Make what is missing, and say what is done."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"images: {text} ({time.monotonic() - started:.0f} s)", flush=True)

    try:
        say("Debian and Python, made once ...")
        for image in (sandbox_image(), application_image(), *mesh_images()):
            megabytes = sum(layer.file.stat().st_size for layer in image.layers) / 1e6
            say(f"{image.name}: {megabytes:.0f} MB")
        image_store(foundations(), pause_program())
        say("unpacked for nodes")
    except EnvironmentLacks as error:
        sys.exit(f"images: {error}")


if __name__ == "__main__":
    main()

"""Compiles ztunnel's hot modules with mypyc: ``python scripts/compile_hot.py FOLDER``, run by ``make setup``.

What is compiled, and why these, is a decision by measurement: see *Decisions* in ``ARCHITECTURE.md``. The folder's old
contents stay in use until the new ones are complete; running processes keep what they have loaded. It takes most of a
minute, and nothing when the folder already holds the compiled form of these sources. An image's build runs the same
command after its packages are installed and sets ``AMBIMESH_COMPILED`` to the folder (``mesh/compiled.py``).
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext

from mesh.compiled import MANIFEST, SOURCES, Unusable, digest, interpreter, read_manifest

MODULES = (
    *("mesh.addresses", "mesh.identity", "mesh.rbac"),
    *("mesh.hbone.codec", "mesh.hbone.contract", "mesh.hbone.control_machine", "mesh.hbone.header_codec"),
    "mesh.hbone.machine",
    *("mesh.telemetry.access_log", "mesh.telemetry.metrics"),
    *("mesh.relay.acceptor", "mesh.relay.dialing_end", "mesh.relay.engine", "mesh.relay.plain_pair"),
    *("mesh.relay.socket_end", "mesh.relay.stream_end", "mesh.relay.tunnel"),
    *("ztunnel.proxy.admission", "ztunnel.proxy.baggage", "ztunnel.proxy.connections", "ztunnel.proxy.delivery"),
    *("ztunnel.proxy.inbound", "ztunnel.proxy.outbound"),
    *("mesh.state.routes", "mesh.state.upstream"),
    *("waypoint.wire.ending", "waypoint.wire.socket_wire", "waypoint.wire.stream_wire", "waypoint.wire.timers"),
    *("waypoint.http.message", "waypoint.http.h1_codec", "waypoint.http.h1_request_machine"),
    *("waypoint.http.h1_client_machine", "waypoint.http.h1_server_machine"),
    *("waypoint.http.h2_header_codec", "waypoint.http.h2_machine", "waypoint.http.h2_stream_machine"),
    *("waypoint.http.h2_client_machine", "waypoint.http.h2_server_machine"),
    *("waypoint.exchange.attempts", "waypoint.exchange.client_connection", "waypoint.exchange.decision"),
    *("waypoint.exchange.exchange", "waypoint.exchange.facts", "waypoint.exchange.grpc_messages"),
    *("waypoint.exchange.local_answer", "waypoint.exchange.retry"),
    *("waypoint.routing.chance", "waypoint.routing.header_change", "waypoint.routing.path", "waypoint.routing.port"),
    *("waypoint.routing.request_test", "waypoint.routing.rewrite", "waypoint.routing.route", "waypoint.routing.table"),
    "waypoint.routing.text",
    *("waypoint.upstream.backend", "waypoint.upstream.balancers", "waypoint.upstream.cluster"),
    *("waypoint.upstream.endpoint", "waypoint.upstream.limits_machine", "waypoint.upstream.pool_contract"),
    *("waypoint.upstream.pool_h1", "waypoint.upstream.pool_h2", "waypoint.upstream.outlier_machine"),
    *("waypoint.telemetry.record", "waypoint.telemetry.request_metrics", "waypoint.telemetry.request_log"),
    *("waypoint.telemetry.log_format", "waypoint.telemetry.flags"),
    *("waypoint.security.authorization", "waypoint.security.subject"),
    *("waypoint.deciding", "waypoint.guarding", "waypoint.requests"),
)
OPTIMIZATION = "2"
GROUP = "ambimesh"
"""Compiled together, so that they call one another without Python's calling convention."""
_TOP = ("mesh", "ebpf", "ztunnel", "waypoint")


def main() -> int:
    """Compile unless the folder is up to date; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compile ztunnel's hot modules.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder.absolute()
    tools = _tools()
    try:
        read_manifest(folder)
        if json.loads((folder / MANIFEST).read_bytes()).get("tools") == tools:
            return 0
    except Unusable:
        pass
    os.chdir(SOURCES)  # mypy derives module names from paths, and reads its configuration here
    with TemporaryDirectory(dir=folder.parent, prefix="compiling-") as work:
        made = Path(work) / "made"
        _build(Path(work), made)
        files = {_import_name(path.relative_to(made)): str(path.relative_to(made)) for path in made.rglob("*.so")}
        if {name for name in files if name != f"{GROUP}__mypyc"} != set(MODULES):
            raise SystemExit(f"mypyc made {sorted(files)}, which is not what was asked for")
        sources = {str(file): digest(file) for file in sorted(closure(MODULES))}
        manifest = {"interpreter": interpreter(), "tools": tools, "files": files, "sources": sources}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1))
        if folder.exists():
            folder.rename(Path(work) / "old")
        shutil.move(made, folder)
    return 0


def _build(work: Path, made: Path) -> None:
    paths = [str(_file(module)) for module in MODULES]
    extensions = mypycify(
        ["--config-file=pyproject.toml", *paths],
        opt_level=OPTIMIZATION,
        debug_level="0",
        group_name=GROUP,
        target_dir=str(work / "c"),
    )
    command = build_ext(Distribution({"name": GROUP, "ext_modules": extensions}))
    command.build_lib = str(made)
    command.build_temp = str(work / "objects")
    command.ensure_finalized()
    command.run()


def _tools() -> str:
    """What else the result depends on: this program, which names the modules, and the compilers."""
    compiler = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout
    return f"{digest(Path(__file__))} mypy {version('mypy')} {compiler.splitlines()[0]}"


def _import_name(library: Path) -> str:
    return ".".join((*library.parent.parts, library.name.split(".", 1)[0]))


def _file(module: str) -> Path:
    path = Path(*module.split("."))
    return path / "__init__.py" if (SOURCES / path).is_dir() else path.with_suffix(".py")


def closure(modules: tuple[str, ...]) -> set[Path]:
    """The sources of these modules and of all of ours that they import, relative to :data:`SOURCES`."""
    found: set[Path] = set()
    left = list(modules)
    while left:
        file = _file(left.pop())
        if file in found or not (SOURCES / file).is_file():
            continue
        found.add(file)
        left += _imports(SOURCES / file)
    return found


def _imports(file: Path) -> Iterator[str]:
    """Names of modules that a source may import; some are names in modules."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in _TOP)


if __name__ == "__main__":
    sys.exit(main())

"""Compiles the proxies' hot modules with mypyc: ``python scripts/compile_hot.py FOLDER``, run by ``make setup``.

What is compiled, and why these, is a decision by measurement: see *Decisions* in ``ARCHITECTURE.md``. The folder's old
contents stay in use until the new ones are complete; running processes keep what they have loaded. It takes most of a
minute, and nothing when the folder already holds the compiled form of these sources. An image holds the part that is of
its packages (``scripts/image_compiled.py``), and its environment says where (``mesh/compiled.py``).
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

OF_ZTUNNEL = (
    *("ebpf.connections", "mesh.addresses", "mesh.clock", "mesh.identity", "mesh.rbac"),
    *("mesh.hbone.codec", "mesh.hbone.contract", "mesh.hbone.control_machine", "mesh.hbone.header_codec"),
    "mesh.hbone.machine",
    *("mesh.telemetry.access_log", "mesh.telemetry.metrics"),
    *("mesh.relay.acceptor", "mesh.relay.dialing_end", "mesh.relay.engine", "mesh.relay.kernel_tunnel"),
    *("mesh.relay.looking", "mesh.relay.openssl_tunnel", "mesh.relay.plain_pair", "mesh.relay.socket_end"),
    *("mesh.relay.stream_end", "mesh.relay.tunnel", "mesh.relay.tunnel_contract"),
    *("ztunnel.proxy.admission", "ztunnel.proxy.baggage", "ztunnel.proxy.connections", "ztunnel.proxy.delivery"),
    *("ztunnel.proxy.inbound", "ztunnel.proxy.outbound"),
    *("ztunnel.worker.fast_path", "ztunnel.worker.preference"),
    *("mesh.state.routes", "mesh.state.upstream"),
)
"""Ztunnel's, and what it shares with waypoints."""
OF_WAYPOINTS = tuple(
    f"waypoint.{name}"
    for name in (
        *("deciding", "guarding", "requests"),
        *("exchange.attempts", "exchange.client_connection", "exchange.decision", "exchange.exchange"),
        *("exchange.facts", "exchange.grpc_messages", "exchange.local_answer", "exchange.retry"),
        *("http.h1_client_machine", "http.h1_codec", "http.h1_plain_codec", "http.h1_request_machine"),
        *("http.h1_sending_machine", "http.h1_server_machine", "http.h2_client_machine", "http.h2_header_codec"),
        *("http.h2_machine", "http.h2_server_machine", "http.h2_stream_machine", "http.message"),
        *("routing.chance", "routing.header_change", "routing.path", "routing.port", "routing.request_conditions"),
        *("routing.rewrite", "routing.route", "routing.table", "routing.text"),
        *("security.authorization", "security.conditions", "security.subject"),
        *("telemetry.default_line", "telemetry.flags", "telemetry.log_format", "telemetry.record"),
        *("telemetry.request_log", "telemetry.request_metrics"),
        *("upstream.backend", "upstream.balancers", "upstream.cluster", "upstream.endpoint"),
        *("upstream.limits_machine", "upstream.outlier_machine", "upstream.pool_contract", "upstream.pool_h1"),
        *("upstream.pool_h2", "upstream.services"),
        *("wire.ending", "wire.socket_wire", "wire.stream_wire", "wire.timers"),
    )
)
MODULES = (*OF_ZTUNNEL, *OF_WAYPOINTS)
GROUPS = {"ambimesh": OF_ZTUNNEL, "waypoint": OF_WAYPOINTS}
"""What is compiled into one library each. All of them call one another without Python's calling convention; a ztunnel
never loads what is the waypoint's."""
OPTIMIZATION = "2"
_TOP = ("mesh", "ebpf", "ztunnel", "waypoint")


def main() -> int:
    """Compile unless the folder is up to date; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compile the proxies' hot modules.")
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
        # Before they are read: what changes meanwhile then does not pass for compiled.
        sources = {str(file): digest(file) for file in sorted(closure(MODULES))}
        _build(Path(work), made)
        files = {_import_name(path.relative_to(made)): str(path.relative_to(made)) for path in made.rglob("*.so")}
        if set(files) - {f"{name}__mypyc" for name in GROUPS} != set(MODULES):
            raise SystemExit(f"mypyc made {sorted(files)}, which is not what was asked for")
        manifest = {"interpreter": interpreter(), "tools": tools, "files": files, "sources": sources}
        (made / MANIFEST).write_text(json.dumps(manifest, indent=1))
        if folder.exists():
            folder.rename(Path(work) / "old")
        shutil.move(made, folder)
    return 0


def _build(work: Path, made: Path) -> None:
    groups: list[tuple[list[str], str | None]] = [
        ([str(_file(module)) for module in modules], name) for name, modules in GROUPS.items()
    ]
    extensions = mypycify(
        ["--config-file=pyproject.toml", *(path for paths, _ in groups for path in paths)],
        opt_level=OPTIMIZATION,
        debug_level="0",
        separate=groups,
        target_dir=str(work / "c"),
    )
    command = build_ext(Distribution({"name": "ambimesh", "ext_modules": extensions}))
    command.build_lib = str(made)
    command.build_temp = str(work / "objects")
    command.parallel = len(GROUPS)
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

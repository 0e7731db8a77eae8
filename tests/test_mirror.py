"""Every module is tested from its mirror image.

A module of ``mesh/xds/`` must be imported by a test file (or the fixtures beside it) in ``tests/mesh/xds/`` or above it
(in ``tests/mesh/``); one of ``operator/controlplane/`` in ``tests/controlplane/``. A module that only hands on what
others define is transparent: importing a name from it is importing the module that defines the name. Whatever no test
imports stands in a table with the reason and the test that exercises it all the same.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


class Elsewhere(NamedTuple):
    """Why no test of its own imports a module."""

    reason: str
    test: str
    """The file whose tests run it, below ``tests/``."""


_COMMAND_LINE = "a command line: tests run it as the process it is"
_WAYPOINT = "a part that needs all others: tests run it in the whole waypoint"
_OPERATOR_IN_KUBERNETES = "controlplane/test_app_kubernetes.py"
_KIT = "part of the test kit: every test of the package it is for stands on it"

WITHOUT_A_TEST_OF_ITS_OWN: dict[str, Elsewhere] = {
    "ambimesh/__main__.py": Elsewhere(_COMMAND_LINE, "ambimesh/lab/test_lab.py"),
    "ambimesh/chart/__main__.py": Elsewhere("writes the file that the test compares", "ambimesh/chart/test_values.py"),
    "ambimesh/commands/bug_report.py": Elsewhere("typed as a user does", "ambimesh/commands/test_installation.py"),
    "ambimesh/commands/target.py": Elsewhere("typed as a user does", "ambimesh/commands/test_installation.py"),
    "ambimesh/lab/controller/__main__.py": Elsewhere("a part of every lab", "ambimesh/lab/test_lab.py"),
    "ambimesh/lab/kubelet/__main__.py": Elsewhere("a part of every lab", "ambimesh/lab/test_lab.py"),
    "cni/__main__.py": Elsewhere(_COMMAND_LINE, "cni/agent/test_agent_process.py"),
    "operator/controlplane/__main__.py": Elsewhere(_COMMAND_LINE, "controlplane/test_app.py"),
    "operator/controlplane/announcements.py": Elsewhere("what a whole operator writes", _OPERATOR_IN_KUBERNETES),
    "operator/controlplane/kube/happenings_driver.py": Elsewhere("a whole operator tells", _OPERATOR_IN_KUBERNETES),
    "operator/controlplane/source.py": Elsewhere("a protocol, without code", _OPERATOR_IN_KUBERNETES),
    "resources/kube/list_watch_driver.py": Elsewhere("every kind's", "resources/kube/test_source_driver.py"),
    "ztunnel/__main__.py": Elsewhere(_COMMAND_LINE, "ztunnel/test_main.py"),
    "ztunnel/worker/app.py": Elsewhere("a process of every lab with workers", "ztunnel/test_workers.py"),
    "ztunnel/supervisor/app.py": Elsewhere("a process of every lab with workers", "ztunnel/test_workers.py"),
    "mesh/relay/tunnel_contract.py": Elsewhere("protocols, without code", "mesh/relay/test_tunnel.py"),
    "ztunnel/fastpath/contract.py": Elsewhere("a protocol, without code", "ztunnel/worker/test_fast_path.py"),
    "ztunnel/proxy/contract.py": Elsewhere("protocols, without code", "ztunnel/proxy/test_small_parts.py"),
    "ztunnel/fastpath/making.py": Elsewhere("a few lines of every ztunnel's start", "ztunnel/test_same_node.py"),
    "mesh/grpc/connection_driver.py": Elsewhere("both ends stand on it", "mesh/grpc/test_driver_abuse.py"),
    "mesh/hbone/machine.py": Elsewhere("driven by the kit's Endpoint", "mesh/hbone/test_machine.py"),
    "mesh/hbone/control_machine.py": Elsewhere("the machine's base, same driver", "mesh/hbone/test_control_machine.py"),
    "mesh/relay/failures.py": Elsewhere("ztunnel's proxies fail by it", "ztunnel/proxy/test_outbound.py"),
    "mesh/relay/host.py": Elsewhere("an interface", "ztunnel/proxy/test_pool.py"),
    "mesh/relay/owned_tasks.py": Elsewhere("a pod's are tested", "ztunnel/test_pod.py"),
    "mesh/relay/pool.py": Elsewhere("tested with ztunnel's kit of two nodes", "ztunnel/proxy/test_pool.py"),
    "mesh/relay/terminator.py": Elsewhere("tested with ztunnel's kit of two nodes", "ztunnel/proxy/test_terminator.py"),
    "mesh/certificates/tls_contexts.py": Elsewhere("the pool makes tunnels by it", "ztunnel/proxy/test_small_parts.py"),
    "mesh/testing/hbone.py": Elsewhere(_KIT, "mesh/hbone/test_machine.py"),
    "waypoint/http/h1_sending_machine.py": Elsewhere("its client", "waypoint/http/test_h1_client_machine.py"),
    "waypoint/__main__.py": Elsewhere(_COMMAND_LINE, "waypoint/test_main.py"),
    "waypoint/inbound.py": Elsewhere(_WAYPOINT, "waypoint/test_app.py"),
    "waypoint/posting.py": Elsewhere(_WAYPOINT, "waypoint/test_traces.py"),
    "waypoint/streaming.py": Elsewhere(_WAYPOINT, "waypoint/test_streaming.py"),
}


OF_A_WHOLE = {Path("waypoint/lab"), Path("waypoint/lab/conformance")}
"""Folders of tests that are of no module: they bring a lab up, and try all of a component in it."""


@cache
def _modules() -> list[Path]:
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return sorted(
        path.relative_to(ROOT)
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    )


def _import_name(module: Path) -> str:
    parts = module.with_suffix("").parts
    return ".".join(parts[1:] if parts[0] == "operator" else parts)


def _defined(module: str, name: str) -> Iterator[str]:
    """The modules that importing a name imports: its own, and through modules that hand on, the one that defines it."""
    yield module
    yield f"{module}.{name}"
    for inner, passed in _handed_on(module):
        if passed == name:
            yield from _defined(inner, name)


@cache
def _handed_on(module: str) -> frozenset[tuple[str, str]]:
    """(module, name) of what a module with ``__all__`` imports and hands on."""
    path = next((known for known in _modules() if _import_name(known) == module), None)
    tree = ast.parse((ROOT / path).read_text()) if path else ast.Module([], [])
    exported: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            exported = set(ast.literal_eval(node.value))
    return frozenset(
        (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.name in exported
    )


@cache
def _imports(test: Path) -> frozenset[str]:
    """Every module a file imports; ``from a import b`` may mean the module a or the module a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(test.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names |= set(_defined(node.module, alias.name))
    return frozenset(names)


def _mirrors(module: Path) -> list[Path]:
    """Test folders that count as a module's mirror image: its own, and those above it."""
    inner = Path(*module.parts[1:]) if module.parts[0] == "operator" else module
    folders = [ROOT / "tests" / parent for parent in inner.parents]
    return folders[:-1]  # not tests/ itself


def _has_a_test(module: Path) -> bool:
    name = _import_name(module)
    return any(
        name in _imports(file)
        for folder in _mirrors(module)
        for pattern in ("test_*.py", "conftest.py")
        for file in folder.glob(pattern)
    )


def test_every_module_is_tested_from_its_mirror_image() -> None:
    untested = [
        module.as_posix()
        for module in _modules()
        if module.as_posix() not in WITHOUT_A_TEST_OF_ITS_OWN and not _has_a_test(module)
    ]
    assert untested == [], "write a test, or state in the table above why there is none"


def test_the_table_holds_nothing_superfluous() -> None:
    known = {module.as_posix(): module for module in _modules()}
    unneeded = [name for name in WITHOUT_A_TEST_OF_ITS_OWN if name not in known or _has_a_test(known[name])]
    assert unneeded == []


def test_what_the_table_refers_to_is_there() -> None:
    missing = [entry.test for entry in WITHOUT_A_TEST_OF_ITS_OWN.values() if not (ROOT / "tests" / entry.test).exists()]
    assert missing == []


def test_importing_from_a_facade_is_importing_what_defines_the_name() -> None:
    assert set(_defined("mesh.grpc.driver", "open_channel")) >= {"mesh.grpc.driver", "mesh.grpc.client_driver"}
    assert "mesh.grpc.server_driver" not in set(_defined("mesh.grpc.driver", "open_channel"))
    assert "mesh.grpc.client_driver" not in set(_defined("mesh.grpc.driver", "absent"))


def test_test_files_lie_in_mirrored_folders() -> None:
    """A test under a name that is not the source's would never be looked for there."""
    sources = {Path(_import_name(module).replace(".", "/")).parent for module in _modules()}
    sources |= {Path("benchmarks"), Path("benchmarks/layer7"), Path("e2e"), Path("scripts"), Path("vagrant")}
    sources |= {Path("vm"), *OF_A_WHOLE}
    stray = [
        folder.relative_to(ROOT / "tests").as_posix()
        for folder in (ROOT / "tests").rglob("*")
        if folder.is_dir() and any(folder.glob("test_*.py")) and folder.relative_to(ROOT / "tests") not in sources
    ]
    assert stray == []

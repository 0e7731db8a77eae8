"""The command line: what cannot be is one line and exit status 1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_PORT = """
node: {name: node1}
control_plane: {address: nowhere, server_name: x, root_certificate: /r, token: /t}
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ztunnel", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("text", "place"), [(None, "ztunnel.yaml"), ("node: [", "ztunnel.yaml"), (WITHOUT_PORT, "$.control_plane.address")]
)
def test_an_unusable_file_is_one_line(tmp_path: Path, text: str | None, place: str) -> None:
    file = tmp_path / "ztunnel.yaml"
    if text is not None:
        file.write_text(text)
    done = run("--config", str(file))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("ztunnel: ")
    assert place in line


def test_no_arguments_is_a_usage() -> None:
    done = run()
    assert done.returncode == 2
    assert "--config" in done.stderr


NEVER_LOADED = (
    *("asyncio", "rich", "multiprocessing", "unittest", "pdb"),
    *("http.server", "http.client", "urllib.request", "wsgiref", "socketserver", "xmlrpc"),
    *("importlib.metadata", "zipfile", "csv", "email.parser"),
    *("bcc", "kubernetes", "pyroute2", "typer", "controlplane", "resources", "cni", "waypoint", "ambimesh"),
    *("grpc", "httptools", "opentelemetry"),
)
"""What a ztunnel does not need, and what of the standard library its libraries would load for what it never does. It is
memory on every node, of some a megabyte and more."""


@pytest.mark.parametrize("parts", ["ztunnel.app", "ztunnel.supervisor.app, ztunnel.worker.app"])
def test_a_ztunnel_loads_no_more_than_it_needs(parts: str) -> None:
    """As ``__main__`` does it, without starting anything."""
    program = (
        "from mesh.process import prepare_proxy; prepare_proxy(); from mesh import compiled; compiled.choose(); "
        f"from mesh import config; import ztunnel.cores, {parts}, sys; "
        "print(*(name for name, module in sys.modules.items() if module is not None))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.split()
    assert "mesh.relay.engine" in loaded
    assert [
        name for name in loaded if name in NEVER_LOADED or name.startswith(tuple(f"{n}." for n in NEVER_LOADED))
    ] == []

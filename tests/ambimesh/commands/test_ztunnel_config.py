"""``ambimesh ztunnel-config``: what it shows of a dump, its options, and how it asks for log levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from ambimesh import output
from ambimesh.__main__ import app
from ambimesh.commands import ztunnel_config
from ambimesh.commands.ztunnel_options import SHARED, Ztunnels, about_ztunnels
from ambimesh.output import OutputFormat
from mesh.errors import ConfigurationError, InvalidMessage

DUMP = {
    "workloads": [
        {"namespace": "demo", "name": "b", "addresses": ["10.0.0.2", "fd00::2"], "node": "node1", "waypoint": None,
         "protocol": "HBONE"},
        {"namespace": "demo", "name": "a", "addresses": [], "node": "node2", "protocol": "TCP"},
    ],
    "services": [{"namespace": "demo", "name": "web", "vips": ["10.96.0.1"], "waypoint": "None", "endpoints": "1/2"}],
    "policies": [{"namespace": "demo", "name": "p", "action": "Allow", "scope": "Namespace"}],
    "certificates": [
        {"name": "spiffe://x", "type": "Leaf", "status": "Available", "valid": True, "serialNumber": "1f",
         "notAfter": "2026-01-02", "notBefore": "2026-01-01"},
        {"name": "spiffe://y", "type": "Leaf", "status": "Initializing", "valid": False, "serialNumber": None,
         "notAfter": None, "notBefore": None},
    ],
    "connections": [
        {"workload": "a", "direction": "Inbound", "local": "[fd00::2]:80", "remote": "[fd00::1]:4", "remoteTarget": "",
         "protocol": "HBONE"},
    ],
}  # fmt: skip


def table_of(section: ztunnel_config.Section) -> list[list[str]]:
    console = Console(width=2000)
    with console.capture() as captured:
        console.print(output.table(section.columns, section.rows(DUMP)))
    return [line.split() for line in captured.get().splitlines()[1:]]


def test_the_columns_are_those_ambient_users_know() -> None:
    assert ztunnel_config.WORKLOADS.columns == ["NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"]
    assert ztunnel_config.CONNECTIONS.columns[-2:] == ["REMOTE TARGET", "PROTOCOL"]


def test_rows_are_sorted_and_gaps_are_said() -> None:
    assert table_of(ztunnel_config.WORKLOADS) == [
        ["demo", "a", "None", "node2", "None", "TCP"],
        ["demo", "b", "10.0.0.2,fd00::2", "node1", "None", "HBONE"],
    ]
    assert table_of(ztunnel_config.SERVICES) == [["demo", "web", "10.96.0.1", "None", "1/2"]]
    assert table_of(ztunnel_config.POLICIES) == [["demo", "p", "Allow", "Namespace"]]
    assert table_of(ztunnel_config.CERTIFICATES) == [
        ["spiffe://x", "Leaf", "Available", "true", "1f", "2026-01-02", "2026-01-01"],
        ["spiffe://y", "Leaf", "Initializing", "false"],
    ]
    assert table_of(ztunnel_config.CONNECTIONS) == [["a", "Inbound", "[fd00::2]:80", "[fd00::1]:4", "HBONE"]]


def test_plain_values_are_as_deep_as_needed() -> None:
    one, two = [ztunnel_config.POLICIES], [ztunnel_config.POLICIES, ztunnel_config.SERVICES]
    assert ztunnel_config.plain(one, {"node1": DUMP}) == DUMP["policies"]
    assert ztunnel_config.plain(two, {"node1": DUMP})["services"] == DUMP["services"]
    assert ztunnel_config.plain(one, {"node1": DUMP, "node2": {}}) == {"node1": DUMP["policies"], "node2": []}


def test_a_dump_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidMessage, match="no list of objects under policies"):
        ztunnel_config.POLICIES.rows({"policies": {"a": 1}})


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["ztunnel-config", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_saved_dump_is_shown_and_filtered(tmp_path: Path) -> None:
    file = tmp_path / "dump.json"
    one = {"namespace": "a", "name": "x", "addresses": ["10.0.0.1"], "node": "n1", "protocol": "HBONE"}
    two = {"namespace": "b", "name": "y", "addresses": ["10.0.0.2"], "node": "n2", "protocol": "TCP"}
    inbound = {"workload": "x", "direction": "Inbound"}
    both = [inbound, {**inbound, "direction": "Outbound"}]
    file.write_text(json.dumps({"workloads": [one, two], "connections": both}))
    shown = ("workload", "-f", str(file), "-o", "json")
    assert json.loads(run(*shown)[1]) == [one, two]
    for option, value in (("--workload-namespace", "b"), ("--address", "10.0.0.2"), ("--workload-node", "n2")):
        assert json.loads(run(*shown, option, value)[1]) == [two]
    connections = ("connections", "-f", str(file), "-o", "json", "--direction")
    for direction in ("inbound", "Inbound"):
        assert json.loads(run(*connections, direction)[1]) == [inbound]
    assert run(*connections, "sideways")[0] == 2
    cells = run("workload", "-f", str(file))[1].split()[-6:]
    assert cells == ["b", "y", "10.0.0.2", "n2", "None", "TCP"]


@pytest.mark.parametrize("command", ["workload", "service", "policy", "certificate", "connections", "all", "log"])
def test_every_command_takes_the_shared_options(command: str) -> None:
    code, text = run(command, "--help")
    assert code == 0
    for option in ("--node", "--output", "-o", "--context", "--mesh-namespace", "--lab"):
        assert option in text
    assert ("--file" in text) == (command != "log")


def test_shared_options_come_together_and_own_ones_by_name() -> None:
    seen: list[tuple[Ztunnels, str, int]] = []

    @about_ztunnels
    def command(asked: Ztunnels, own: str = "", number: int = 1) -> None:
        """Do."""
        seen.append((asked, own, number))

    given: dict[str, Any] = {each.name: each.default for each in SHARED}
    command(**{**given, "node": "n1"}, own="x", number=2)
    asked = Ztunnels(OutputFormat.SHORT, "n1", None, "ambimesh-system", given["lab"])
    assert seen == [(asked, "x", 2)]
    assert command.__doc__ == "Do."


# -- log ---------------------------------------------------------------------------------------------------------------


class Answering:
    """Stands for the ztunnels: notes what is asked, and answers by node."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: bytes) -> None:
        self.asked: list[tuple[str, str]] = []
        self.answers = answers

        def ask(_ztunnels: Ztunnels, path: str, method: str = "GET") -> dict[str, bytes]:
            self.asked.append((method, path))
            return self.answers

        monkeypatch.setattr(Ztunnels, "ask", ask)


def test_log_levels_are_shown_of_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    # The second one is of a version that does not tell its access log's.
    ztunnels = Answering(monkeypatch, node1=b"level: info\naccess: off\n", node2=b"level: debug\n")
    lines = [line.split() for line in run("log")[1].splitlines()]
    assert lines == [["NODE", "LEVEL", "ACCESS", "LEVEL"], ["node1", "info", "off"], ["node2", "debug", "unknown"]]
    found = {"node1": {"level": "info", "access": "off"}, "node2": {"level": "debug"}}
    assert json.loads(run("log", "-o", "json")[1]) == found
    del ztunnels.answers["node2"]
    assert yaml.safe_load(run("log", "-o", "yaml")[1]) == found["node1"]
    assert ztunnels.asked == [("GET", "/logging")] * 3


def test_log_levels_are_set_together_by_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    ztunnels = Answering(monkeypatch, node1=b"level: warning\naccess: off\n")
    run("log", "--level", "WARN", "--access-level", "off")
    run("log", "--access-level", "error")
    assert ztunnels.asked == [("POST", "/logging?level=warning&access=off"), ("POST", "/logging?access=error")]


@pytest.mark.parametrize("option", ["--level", "--access-level"])
def test_a_level_that_there_is_not_is_no_ztunnels_business(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ztunnels = Answering(monkeypatch)
    with pytest.raises(ConfigurationError, match="'loud' is not a log level: choose one of debug, info"):
        run("log", option, "loud")
    assert ztunnels.asked == []


def test_an_answer_without_a_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Answering(monkeypatch, node1=b"hello")
    with pytest.raises(InvalidMessage, match="the ztunnel of node1 tells no log level"):
        run("log")

"""What is typed, and how the answers look; what the commands do in a lab is tested in ``test_lab``."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from rich.console import Console
from typer.testing import CliRunner

from ambimesh import output
from ambimesh.__main__ import app, main
from ambimesh.commands import check, lab_processes, lab_status, version
from ambimesh.commands.demo import DEMO_LAB
from ambimesh.commands.lab import SHIPPED_MANIFESTS
from ambimesh.commands.options import LabName, workers_wish
from ambimesh.demo.stage import POLICIES
from ambimesh.lab import manifests
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.record import Lab, LabRecord
from ebpf.features import FeatureCheck
from mesh.errors import ConfigurationError
from resources.base import Condition, ObjectMeta
from resources.folder_store import FolderStore
from resources.network import Endpoint, EndpointPort, ServicePort, ServiceSpec
from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Pod, Service
from resources.pod import Container, PodIp, PodSpec, PodStatus

NO_LAB = f"none-such-{os.getpid()}"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments, env={"AMBIMESH_LAB": NO_LAB})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def rendered(columns: list[str], rows: list[list[Any]]) -> str:
    console = Console(width=2000)
    with console.capture() as captured:
        console.print(output.table(columns, rows))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ("lab", "status"), ("lab", "apply", "-f", "x"), ("lab", "delete", "-f", "x"), ("lab", "exec", "a/b", "--", "c"),
        ("lab", "label", "namespace", "demo", "a=b"), ("lab", "logs", "operator"), ("lab", "restart", "operator"),
        ("lab", "capture"),
    ],
)  # fmt: skip
def test_without_a_lab_every_command_says_how_to_get_one(
    arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["ambimesh", *arguments])
    monkeypatch.setenv("AMBIMESH_LAB", NO_LAB)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capfd.readouterr().err == f"error there is no lab {NO_LAB}; bring one up: ambimesh lab up\n"


def test_with_neither_a_lab_nor_a_cluster_both_are_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AMBIMESH_LAB", NO_LAB)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    for arguments in (("ztunnel-config", "all"), ("waypoint", "list"), ("namespace", "list")):
        monkeypatch.setattr("sys.argv", ["ambimesh", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        said = capfd.readouterr().err
        assert said.startswith(f"error there is no lab {NO_LAB}; bring one up: ambimesh lab up; and no cluster")
        assert "KUBECONFIG" in said


def test_removing_no_lab_is_no_error() -> None:
    assert run("lab", "down") == (0, f"there is no lab {NO_LAB}\n")


def test_the_lab_may_be_named_by_option_or_variable() -> None:
    assert run("lab", "down", "--lab", f"{NO_LAB}-x")[1] == f"there is no lab {NO_LAB}-x\n"
    assert LabName.__metadata__[0].envvar == "AMBIMESH_LAB"  # type: ignore[attr-defined]
    LabLayout.named(DEMO_LAB)


def test_versions() -> None:
    status, text = run("version", "-o", "json")
    assert status == 0
    assert json.loads(text) == version.collect()
    assert run("--version") == (0, f"ambimesh {version.collect()['ambimesh']}\n")


def test_checks_show_what_is_missing_first_with_its_remedy() -> None:
    found = [FeatureCheck("a", True, "yes", ""), FeatureCheck("b", False, "no [b]", "install b")]
    lines = rendered(["CHECK", "RESULT", "FOUND", "REMEDY"], check.rows(found)).splitlines()
    assert [line.split() for line in lines[1:]] == [["b", "missing", "no", "[b]", "install", "b"], ["a", "ok", "yes"]]


# -- lab status, logs --------------------------------------------------------------------------------------------------


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    layout = LabLayout.named("lab", tmp_path)
    layout.pids.mkdir(parents=True)
    store = FolderStore(layout.cluster)
    container = Container(name="c", command=("x",))
    statuses = [{"name": "c", "ready": True, "restartCount": 2, "state": {"running": {}}}]
    waiting = [{"name": "c", "ready": False, "restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]
    for name, status, marks in (
        ("a", PodStatus(phase="Running", pod_ips=(PodIp(ip="10.244.1.2"),), container_statuses=statuses,
                        conditions=(Condition(type="Ready", status="True"),)),
         {"ambient.istio.io/redirection": "enabled"}),
        ("b", PodStatus(phase="Running", container_statuses=waiting), {}),
        ("c", PodStatus(reason="FailedCreatePodSandBox", message="the agent is away"), {}),
    ):  # fmt: skip
        metadata = ObjectMeta(name=name, namespace="demo", annotations=marks)
        store.replace(Pod(metadata=metadata, spec=PodSpec(containers=(container,), node_name="node1"), status=status))
    spec = ServiceSpec(cluster_ip="10.96.0.10", ports=(ServicePort(port=80),))
    store.replace(Service(metadata=ObjectMeta(name="web", namespace="demo"), spec=spec))
    store.replace(
        EndpointSlice(
            metadata=ObjectMeta(name="web-1", namespace="demo", labels={SERVICE_NAME_LABEL: "web"}),
            address_type="IPv4",
            endpoints=(Endpoint(addresses=("10.244.1.2",)),),
            ports=(EndpointPort(port=80),),
        )
    )
    return Lab(layout, LabRecord(name="lab", nodes=2, mesh=True, cgroup="/c"))


def test_the_status_shows_pods_as_kubectl_does(lab: Lab) -> None:
    sections = {title: rows for title, _, rows in lab_status.sections(lab_status.collect(lab))}
    assert sections["pods"] == [
        ["demo", "a", "1/1", "Running", "2", "node1", "enabled", "10.244.1.2"],
        ["demo", "b", "0/1", "CrashLoopBackOff", "0", "node1", "-", "-"],
        ["demo", "c", "0/1", "FailedCreatePodSandBox", "0", "node1", "-", "-"],
    ]
    assert sections["services"] == [["demo", "web", "10.96.0.10", "80/TCP", "10.244.1.2"]]
    assert [row[0] for row in sections["nodes"]] == ["node1", "node2"]
    assert sections["routes"] == []


def test_logs_of_a_pod_are_those_of_its_containers(lab: Lab) -> None:
    assert lab_processes.log_files(lab, "demo/a") == [lab.layout.logs / "pods" / "demo_a_c.log"]


@pytest.mark.parametrize("folder", [SHIPPED_MANIFESTS, POLICIES])
def test_the_shipped_manifests_are_sound(folder: Path) -> None:
    objects, problems = manifests.read([folder])
    assert problems == []
    assert objects


def test_how_many_workers_are_asked_for() -> None:
    assert [workers_wish(text) for text in (None, "auto", "3")] == [None, "auto", 3]
    with pytest.raises(ConfigurationError, match="--workers"):
        workers_wish("three")


def _options(command: tuple[str, ...]) -> set[str]:
    found: Any = typer.main.get_command(app)
    for name in command:
        found = found.commands[name]
    return {option for parameter in found.params for option in parameter.opts}


@pytest.mark.parametrize(
    "command",
    [
        ("install",), ("upgrade",), ("uninstall",), ("check",), ("version",), ("bug-report",),
        ("namespace", "enroll"), ("namespace", "unenroll"), ("namespace", "list"),
        ("waypoint", "apply"), ("waypoint", "generate"), ("waypoint", "list"), ("waypoint", "status"),
        ("waypoint", "delete"), ("waypoint", "restart"), ("waypoint", "routes"),
        ("ztunnel-config", "workload"), ("ztunnel-config", "service"), ("ztunnel-config", "policy"),
        ("ztunnel-config", "certificate"), ("ztunnel-config", "connections"), ("ztunnel-config", "all"),
        ("ztunnel-config", "log"),
    ],
)  # fmt: skip
def test_every_command_about_a_cluster_takes_its_context_and_prints_for_programs(command: tuple[str, ...]) -> None:
    assert {"--context", "--output", "-o"} <= _options(command)


def test_what_is_done_is_told_line_by_line_or_whole_to_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in output.OutputFormat:
        with contextlib.suppress(ConfigurationError), output.deeds(kind) as told:
            told.done("a is done", name="a", done="applied")
            raise ConfigurationError("b cannot be")
    short, machine = capsys.readouterr().out.split("\n", 1)
    assert short == "a is done"
    [json_text, yaml_text] = machine.split("]\n", 1)
    assert json.loads(json_text + "]") == yaml.safe_load(yaml_text) == [{"name": "a", "done": "applied"}]

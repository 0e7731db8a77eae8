"""``ambimesh waypoint`` against a folder of objects."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ambimesh.commands import waypoint
from controlplane.reconcile.waypoints import GATEWAY_NAME_LABEL, RESTARTED_ANNOTATION
from mesh.errors import ConfigurationError
from resources.base import Condition, ObjectMeta
from resources.decode import decode_documents
from resources.folder_store import FolderStore
from resources.gateway import GatewaySpec, GatewayStatus
from resources.objects import Gateway, Namespace, Pod
from resources.pod import Container, PodSpec, PodStatus


@dataclass
class Shell:
    """Types commands."""

    store: FolderStore

    def run(self, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(waypoint.app, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    def programmed(self, name: str) -> None:
        """What the operator writes once a waypoint is ready."""
        gateway = self.store.get(Gateway, "demo", name)
        condition = Condition(type="Programmed", status="True", reason="Programmed", message="all replicas are ready")
        self.store.replace(
            Gateway(metadata=gateway.metadata, spec=gateway.spec, status=GatewayStatus(conditions=(condition,)))
        )


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    store = FolderStore(tmp_path)
    monkeypatch.setattr(waypoint, "store_of", lambda _lab, _context: store)
    store.replace(Namespace(metadata=ObjectMeta(name="demo", labels={waypoint.MODE_LABEL: "ambient"})))
    return Shell(store)


def test_what_is_generated_can_be_applied(shell: Shell) -> None:
    _, text = shell.run("generate", "-n", "demo", "--for", "all", "--replicas", "3")
    [gateway], problems = decode_documents(text, "generated")
    assert problems == []
    assert isinstance(gateway, Gateway)
    assert gateway == waypoint.make_gateway("waypoint", "demo", waypoint.Traffic.ALL, 3)
    assert yaml.safe_load(text)["spec"]["gatewayClassName"] == "ambimesh-waypoint"


def test_a_namespace_is_enrolled_and_not_taken_from_another_waypoint(shell: Shell) -> None:
    assert shell.run("apply", "-n", "demo", "--enroll-namespace")[0] == 0
    assert shell.store.get(Namespace, "", "demo").metadata.labels[waypoint.USE_LABEL] == "waypoint"
    with pytest.raises(ConfigurationError, match="--overwrite"):
        shell.run("apply", "-n", "demo", "--name", "other", "--enroll-namespace")
    assert [gateway.metadata.name for gateway in shell.store.of_kind(Gateway)] == ["waypoint"]
    shell.run("apply", "-n", "demo", "--name", "other", "--enroll-namespace", "--overwrite")
    assert shell.store.get(Namespace, "", "demo").metadata.labels[waypoint.USE_LABEL] == "other"


@pytest.mark.parametrize(("name", "namespace"), [("none", "demo"), ("waypoint", "absent")])
def test_what_cannot_be_is_refused(shell: Shell, name: str, namespace: str) -> None:
    with pytest.raises(ConfigurationError):
        shell.run("apply", "--name", name, "-n", namespace)
    assert list(shell.store.of_kind(Gateway)) == []


def test_the_status_is_the_operators(shell: Shell) -> None:
    assert shell.run("list", "-n", "demo") == (0, "No waypoints found.\n")
    shell.run("apply", "-n", "demo")
    code, text = shell.run("status", "-n", "demo", "-o", "json")
    assert (code, json.loads(text)[0]["status"]) == (1, "Unknown")
    with pytest.raises(ConfigurationError, match="not ready after 0 s"):
        shell.run("status", "-n", "demo", "--wait", "--timeout", "0")
    shell.programmed("waypoint")
    assert shell.run("status", "-n", "demo", "--wait")[0] == 0
    for where, place in (("-n", "demo/other"), ("-A", "other")):
        with pytest.raises(ConfigurationError, match=f"there is no waypoint {place}$"):
            shell.run("status", "other", *((where, "demo") if where == "-n" else (where,)))
    assert "True" in shell.run("list", "-A")[1]


def test_only_waypoints_are_deleted(shell: Shell) -> None:
    shell.run("apply", "-n", "demo")
    metadata = ObjectMeta(name="ingress", namespace="demo")
    shell.store.replace(Gateway(metadata=metadata, spec=GatewaySpec(gateway_class_name="other")))
    with pytest.raises(ConfigurationError):
        shell.run("delete", "-n", "demo")
    assert shell.run("delete", "ingress", "absent", "-n", "demo")[0] == 1
    assert shell.run("delete", "--all", "-n", "demo") == (0, "waypoint demo/waypoint deleted\n")
    assert [gateway.metadata.name for gateway in shell.store.of_kind(Gateway)] == ["ingress"]


def test_who_deletes_a_waypoint_that_is_still_asked_for_is_told(shell: Shell) -> None:
    told = "namespace demo still asks for it"
    shell.run("apply", "-n", "demo", "--enroll-namespace")
    shell.run("apply", "-n", "demo", "--name", "other")
    assert told not in shell.run("delete", "other", "-n", "demo")[1]
    assert told in shell.run("delete", "waypoint", "-n", "demo")[1]
    # Of the same name, but in another namespace: not this one.
    shell.run("apply", "-n", "demo")
    shell.store.patch_metadata(Namespace, "", "demo", labels={waypoint.USE_NAMESPACE_LABEL: "infra"})
    assert told not in shell.run("delete", "waypoint", "-n", "demo")[1]


def test_a_restart_is_asked_for_and_waited_for(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.run("apply", "-n", "demo")

    def replica(name: str, *, ready: bool) -> None:
        condition = Condition(type="Ready", status="True" if ready else "False")
        metadata = ObjectMeta(name=name, namespace="demo", uid=name, labels={GATEWAY_NAME_LABEL: "waypoint"})
        spec = PodSpec(containers=(Container(name="waypoint"),))
        status = PodStatus(phase="Running", conditions=(condition,))
        shell.store.replace(Pod(metadata=metadata, spec=spec, status=status))

    replica("old", ready=True)

    def replaced(_seconds: float) -> None:
        """What controllers do between two looks."""
        if shell.store.delete(Pod, "demo", "old"):
            replica("new", ready=False)
        else:
            replica("new", ready=True)

    monkeypatch.setattr("ambimesh.commands.waypoint.time.sleep", replaced)
    assert shell.run("restart", "-n", "demo", "--wait") == (
        0, "waypoint demo/waypoint restarted\n✅ waypoint demo/waypoint is ready!\n"
    )  # fmt: skip
    first = shell.store.get(Gateway, "demo", "waypoint").metadata.annotations[RESTARTED_ANNOTATION]
    assert shell.run("restart", "waypoint", "-n", "demo")[0] == 0
    assert shell.store.get(Gateway, "demo", "waypoint").metadata.annotations[RESTARTED_ANNOTATION] != first
    with pytest.raises(ConfigurationError, match="there is no waypoint demo/other"):
        shell.run("restart", "other", "-n", "demo")
    monkeypatch.setattr("ambimesh.commands.waypoint.time.sleep", lambda _seconds: None)
    with pytest.raises(ConfigurationError, match="1 of 1 replicas are still the old ones"):
        shell.run("restart", "-n", "demo", "--wait", "--timeout", "0.01")

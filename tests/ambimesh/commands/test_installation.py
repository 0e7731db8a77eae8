"""``ambimesh install`` and what goes with it, as a user types it. Pods that come up: ``tests/ambimesh/install``."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from ambimesh.__main__ import app
from ambimesh.commands.installation import given_values
from ambimesh.commands.waypoint import WAYPOINT_CLASS
from mesh.errors import ConfigurationError, MeshError
from tests.e2e.kit.control_plane import ControlPlane


def _run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, MeshError):
        raise result.exception
    return result


@pytest.fixture
def user(kubernetes_api: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> ControlPlane:
    """A shell whose kubeconfig is an administrator's of the API server."""
    monkeypatch.setenv("KUBECONFIG", str(kubernetes_api.kubeconfig))
    monkeypatch.setenv("AMBIMESH_LAB", "no-such-lab")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubernetes_api.kubeconfig))
    return kubernetes_api


def test_the_command_line_wins_over_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("ztunnel: {workers: 1, accessLog: off}\nmesh: {network: a}\n")
    second.write_text("ztunnel: {workers: 2}\n")
    found = given_values([first, second], ["mesh.network=b"], ["images.tag=7"])
    assert found["ztunnel"]["workers"] == 2
    assert found["mesh"] == {"network": "b"}
    assert found["images"] == {"tag": "7"}


@pytest.mark.parametrize("text", ["- a\n", "a: [\n", None])
def test_a_file_without_values_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "values.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"values\.yaml"):
        given_values([file], [], [])


@pytest.mark.kubernetes
def test_a_dry_run_prints_everything_and_changes_nothing(user: ControlPlane) -> None:
    result = _run("install", "--dry-run", "--set", "ztunnel.workers=2", "-o", "json")
    objects = json.loads(result.stdout)
    kinds = {value["kind"] for value in objects}
    assert {"Namespace", "Deployment", "DaemonSet", "ClusterRole"} <= kinds
    [settings] = [each for each in objects if each["metadata"]["name"] == "ambimesh-ztunnel" and "data" in each]
    assert yaml.safe_load(settings["data"]["ztunnel.yaml"])["workers"] == 2
    printed = list(yaml.safe_load_all(_run("install", "--dry-run", "--set", "ztunnel.workers=2").stdout))
    assert printed == objects
    assert "ambimesh" not in user.kubectl("get", "clusterroles,namespaces", "-o", "name")


@pytest.mark.kubernetes
def test_a_cluster_that_is_not_fit_is_left_alone(user: ControlPlane) -> None:
    with pytest.raises(ConfigurationError, match="nothing was changed") as raised:
        _run("install")
    assert any("no Linux node" in note for note in raised.value.__notes__)
    assert "ambimesh" not in user.kubectl("get", "clusterroles,namespaces", "-o", "name")


@pytest.mark.kubernetes
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("install", "--set", "ztunnel.wrkers=2"), "wrkers.*did you mean ztunnel.workers"),
        (("install", "--context", "absent"), "absent"),
        (("upgrade",), "ambimesh install"),
        (("uninstall", "--yes"), "no installation"),
    ],
)
def test_what_cannot_be_is_told(user: ControlPlane, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        _run(*arguments)


@pytest.mark.kubernetes
def test_a_namespace_that_was_there_is_not_ours(user: ControlPlane, kubernetes_namespace: str) -> None:
    objects = json.loads(_run("install", "--dry-run", "--mesh-namespace", kubernetes_namespace, "-o", "json").stdout)
    assert "Namespace" not in {value["kind"] for value in objects}


@pytest.mark.kubernetes
def test_checks_and_versions_of_a_cluster(user: ControlPlane) -> None:
    result = _run("check", "--cluster", "-o", "json")
    assert result.exit_code == 1
    levels = {one["name"]: one["level"] for one in json.loads(result.stdout)}
    assert levels["nodes"] == "failed"
    assert levels["rights"] == levels["Kubernetes"] == "ok"
    assert "no Linux node" in _run("check", "--cluster").stdout
    versions = json.loads(_run("version", "--cluster", "-o", "json").stdout)
    assert versions["installation"] == "none"
    assert versions["Kubernetes"].startswith("v1.")


@pytest.mark.kubernetes
def test_a_bug_report_holds_no_secret(user: ControlPlane, kubernetes_namespace: str, tmp_path: Path) -> None:
    user.kubectl("create", "secret", "generic", "s", "--from-literal=key=hidden", "-n", kubernetes_namespace)
    file = tmp_path / "report.tar.gz"
    assert _run("bug-report", "-f", str(file), "--mesh-namespace", kubernetes_namespace).exit_code == 0
    with tarfile.open(file) as archive:
        names = {entry.name.removeprefix("ambimesh-bug-report/") for entry in archive.getmembers()}
        texts = [archive.extractfile(entry) for entry in archive.getmembers()]
        whole = b"".join(stream.read() for stream in texts if stream is not None)
    assert {"check.yaml", "version.yaml", "mesh/pod.yaml", "cluster/namespace.yaml"} <= names
    # Of every kind that the operator reads, also where the cluster does not know it.
    assert {"cluster/tcproute.yaml", "cluster/telemetry.yaml"} <= names
    assert b"hidden" not in whole
    assert b"aGlkZGVu" not in whole  # in base64


@pytest.mark.kubernetes
def test_namespaces_and_waypoints_of_a_cluster(
    gateway_api: ControlPlane, user: ControlPlane, kubernetes_namespace: str
) -> None:
    space = kubernetes_namespace
    enrolled = _run("namespace", "enroll", space, "-o", "json").stdout
    assert json.loads(enrolled) == [{"namespace": space, "done": "enrolled"}]
    assert space in _run("namespace", "list").stdout
    result = _run("waypoint", "apply", "-n", space, "--enroll-namespace", "-r", "canary")
    assert f"waypoint {space}/waypoint applied" in result.stdout
    assert WAYPOINT_CLASS in user.kubectl("get", "gatewayclasses", "-o", "name")
    [listed] = json.loads(_run("waypoint", "list", "-n", space, "-o", "json").stdout)
    assert listed["metadata"]["labels"] == {"istio.io/rev": "canary"}
    assert _run("waypoint", "list", "-n", space).stdout.split()[-4:] == ["waypoint", "canary", "service", "Unknown"]
    labels = json.loads(user.kubectl("get", "namespace", space, "-o", "json"))["metadata"]["labels"]
    assert labels["istio.io/use-waypoint"] == "waypoint"
    # Applied again without the revision it has none: what was ours is ours to take away.
    _run("waypoint", "apply", "-n", space)
    assert _run("waypoint", "list", "-n", space).stdout.split()[-3] == "default"
    deleted = _run("waypoint", "delete", "-n", space, "waypoint", "-o", "yaml").stdout
    assert yaml.safe_load(deleted) == [{"namespace": space, "waypoint": "waypoint", "done": "deleted"}]
    assert _run("waypoint", "list", "-n", space).stdout == "No waypoints found.\n"
    _run("namespace", "unenroll", space)
    assert space not in _run("namespace", "list").stdout


@pytest.mark.kubernetes
def test_without_ztunnels_that_is_told(user: ControlPlane) -> None:
    with pytest.raises(ConfigurationError, match="no ztunnel runs on node n1"):
        _run("ztunnel-config", "all", "--node", "n1")

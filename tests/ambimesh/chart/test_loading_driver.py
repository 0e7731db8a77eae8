"""The chart, by our renderer and by Helm itself."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from ambimesh.chart.loading_driver import PLACES, Chart, load_chart, render
from cni.agent.configuration import AgentSettings
from controlplane.config import OperatorSettings, WaypointGroup
from controlplane.kube.permissions import OPERATOR_CREDENTIALS
from controlplane.reconcile.waypoints import parts_of
from mesh.config import decode, load
from mesh.errors import ConfigurationError, EnvironmentLacks
from resources.base import ObjectMeta
from resources.gateway import GatewaySpec
from resources.objects import Gateway
from waypoint.config import WaypointSettings as WaypointFile
from ztunnel.config import ZtunnelSettings

NAMESPACE = "ambimesh-system"
GATEWAY_API = "gateway.networking.k8s.io/v1/GatewayClass"
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "removal": {"agent": {"action": "uninstall"}},
    "everything else": {
        "namespace": {"create": True},
        "images": {
            "prefix": "images.example:5000/mesh/",
            "tag": "1.2.3",
            "pullPolicy": "Always",
            "pullSecrets": ["a", "b"],
        },
        "mesh": {"trustDomain": "example.org", "clusterId": 'of "quotes" and \\', "network": "n-1"},
        "log": {"level": "debug", "format": "json"},
        "operator": {"replicas": 5, "nodeSelector": {"role": "infra", "zone": "a"}},
        "agent": {
            "excludedNamespaces": ["kube-system", "storage"],
            "maxUnavailable": 1,
            "tolerations": [{"key": "a", "effect": "NoSchedule", "operator": "Equal", "value": "yes"}],
        },
        "ztunnel": {
            "workers": 3, "kernelTls": "auto", "accessLog": "off", "drainSeconds": 3600, "fastPath": {"splice": False}
        },
        "waypoints": {"istioClass": True, "autoscaling": {"enabled": False}},
    },
    "nothing by default": {
        "agent": {"tolerations": [], "excludedNamespaces": []},
        "ztunnel": {"resources": {"limits": None}},
    },
}


def _key(value: dict[str, Any]) -> tuple[str, str, str]:
    return value["kind"], value["metadata"].get("namespace", ""), value["metadata"]["name"]


def _rendered(given: dict[str, Any], **options: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    objects = render(load_chart(), given, namespace=NAMESPACE, api_versions=[GATEWAY_API], **options)
    found = {_key(value): value for value in objects}
    assert len(found) == len(objects), "two objects have one name"
    return found


@pytest.mark.kubernetes
@pytest.mark.parametrize("variant", VARIANTS)
def test_helm_makes_the_same_objects(helm: Path, tmp_path: Path, variant: str) -> None:
    given = tmp_path / "values.yaml"
    given.write_text(yaml.safe_dump(VARIANTS[variant]))
    command: list[str | Path] = [
        helm,
        "template",
        "ambimesh",
        PLACES[0],
        "-n",
        NAMESPACE,
        "-f",
        given,
        "--api-versions",
        GATEWAY_API,
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    theirs = {_key(value): value for value in yaml.safe_load_all(text) if value}
    assert _rendered(VARIANTS[variant], service="Helm") == theirs


@pytest.mark.kubernetes
def test_helm_finds_nothing_to_complain_of(helm: Path) -> None:
    checked = subprocess.run([helm, "lint", "--strict", PLACES[0]], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.kubernetes
@pytest.mark.parametrize(
    "wrong", ["ztunnel.wrkers=1", "ztunnel.workers=many", "operator.replicas=0", "log.level=loud", "agent.action=stop"]
)
def test_helm_and_we_refuse_the_same_values(helm: Path, wrong: str) -> None:
    path, value = wrong.split("=")
    group, key = path.split(".")
    command: list[str | Path] = [helm, "template", PLACES[0], "--set", wrong]
    theirs = subprocess.run(command, capture_output=True, text=True)
    assert theirs.returncode != 0
    assert key in theirs.stderr
    with pytest.raises(ConfigurationError, match=key):
        _rendered({group: {key: int(value) if value.isdigit() else value}})


def test_without_the_gateway_api_there_is_no_class_of_it() -> None:
    kinds = {value["kind"] for value in render(load_chart(), {}, namespace=NAMESPACE)}
    assert "GatewayClass" not in kinds
    assert "DaemonSet" in kinds
    assert ("GatewayClass", "", "ambimesh-waypoint") in _rendered({})
    assert ("GatewayClass", "", "istio-waypoint") not in _rendered({})


def test_ztunnel_reads_what_the_chart_writes() -> None:
    text = _rendered({"ztunnel": {"workers": 2}})[("ConfigMap", NAMESPACE, "ambimesh-ztunnel")]["data"]["ztunnel.yaml"]
    environment = {"NODE_NAME": "n1", "POD_NAME": "z", "POD_NAMESPACE": NAMESPACE, "POD_IP": "10.0.0.1"}
    settings = decode(text, "ztunnel.yaml", ZtunnelSettings, environment)
    assert settings.node.name == "n1"
    assert (settings.workers, settings.kernel_tls) == (2, "never")
    assert settings.control_plane.host_and_port() == (f"ambimesh-operator.{NAMESPACE}.svc", 15012)
    pod = _rendered({})[("DaemonSet", NAMESPACE, "ambimesh-ztunnel")]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == settings.drain_seconds + 5
    assert {entry["name"] for entry in pod["containers"][0]["env"]} == set(environment)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_operator_reads_what_the_chart_writes(variant: str) -> None:
    given = VARIANTS[variant]
    objects = _rendered(given)
    text = objects[("ConfigMap", NAMESPACE, "ambimesh-operator")]["data"]["operator.yaml"]
    settings = decode(text, "operator.yaml", OperatorSettings, {})
    # Everything is the API's: objects, tokens, the authority; the namespace is the pod's own.
    assert settings.source.kubernetes is not None
    assert settings.source.folder is None
    assert settings.source.kubernetes.namespace == ""
    assert settings.authentication.tokens is None
    assert (settings.authority.folder, settings.authority.given) == (None, None)
    proxies = objects[("DaemonSet", NAMESPACE, "ambimesh-ztunnel")]["spec"]["template"]["spec"]["serviceAccountName"]
    assert settings.authentication.trusted_node_accounts == [f"{NAMESPACE}/{proxies}"]
    service = objects[("Service", NAMESPACE, "ambimesh-operator")]
    assert settings.grpc.server_name == f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert {port["port"] for port in service["spec"]["ports"]} == {settings.grpc.port, settings.http.port}
    translation = settings.translation()
    mesh = {**load_chart().defaults["mesh"], **given.get("mesh", {})}
    assert (translation.trust_domain, translation.cluster_id) == (mesh["trustDomain"], mesh["clusterId"])
    assert (translation.network, translation.root_namespace) == (mesh["network"], mesh["rootNamespace"])
    assert settings.waypoints is not None
    waypoints = settings.waypoints.settings()
    assert waypoints.cluster is not None
    others = given.get("waypoints", {})
    assert ("istio-waypoint" in waypoints.classes) is others.get("istioClass", False)
    assert (waypoints.cluster.max_replicas is None) is ("autoscaling" in others)
    assert waypoints.cluster.image_pull_secrets == tuple(given.get("images", {}).get("pullSecrets", ()))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_agent_reads_what_the_chart_writes(variant: str) -> None:
    objects = _rendered(VARIANTS[variant])
    text = objects[("ConfigMap", NAMESPACE, "ambimesh-agent")]["data"]["agent.yaml"]
    # A chart cannot know the cgroups of ztunnels: KNOWN_ISSUES.md, "The node agent in a cluster".
    text = text.replace("\nbpf:\n", "\nbpf:\n  ztunnel_cgroups: []\n")
    settings = decode(text, "agent.yaml", AgentSettings, {"NODE_NAME": "n1"})
    assert settings.node.name == "n1"
    assert settings.source.kubernetes is not None
    assert settings.source.folder is None
    pod = objects[("DaemonSet", NAMESPACE, "ambimesh-agent")]["spec"]["template"]["spec"]
    (container,) = pod.get("initContainers", pod["containers"])
    assert [entry["name"] for entry in container["env"]] == ["NODE_NAME"]
    mounted = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
    places = [settings.cni.socket, settings.ztunnel.socket, settings.state_directory, settings.cni.net_directory]
    places += [settings.cni.binary_directory, settings.bpf.bpffs, settings.bpf.cgroup, settings.proc]
    for place in places:
        assert any(place.is_relative_to(mount) for mount in mounted), place
    # The mesh's own pods, by the labels that they have.
    rules = settings.rules()
    for name in ("agent", "ztunnel"):
        labels = objects[("DaemonSet", NAMESPACE, f"ambimesh-{name}")]["spec"]["template"]["metadata"]["labels"]
        own = [one for one in rules.own_pods if one.namespace == NAMESPACE]
        assert any(one.labels.items() <= labels.items() for one in own), name
    excluded = VARIANTS[variant].get("agent", {}).get("excludedNamespaces", ["kube-system"])
    assert rules.excluded_namespaces == frozenset(excluded)


def _settings(name: str, **values: Any) -> Any:
    data = _rendered(values)[("ConfigMap", NAMESPACE, name)]["data"]
    return yaml.safe_load(next(iter(data.values())))


def test_waypoints_read_what_the_operator_gives_them() -> None:
    """From the chart by the operator's settings to a pod's environment and the file in the waypoint's image."""
    values = {"mesh": {"clusterId": 'a "name"', "network": "n"}, "waypoints": {"drainSeconds": 7}}
    group = msgspec.convert(_settings("ambimesh-operator", **values)["waypoints"], WaypointGroup)
    metadata = ObjectMeta(name="w", namespace="demo", uid="u")
    gateway = Gateway(metadata=metadata, spec=GatewaySpec(gateway_class_name="ambimesh-waypoint"))
    _, _, deployment = parts_of(gateway, group.settings())
    spec = deployment.spec.template.spec
    (container,) = spec.containers
    told = {one.name: one.value or f"from {one.value_from}" for one in container.env}
    environment = {**{one.name: "" for one in container.env}, **told, "POD_IP": "10.0.0.1"}
    file = PLACES[0].parents[1] / "images" / "waypoint.yaml"
    settings = load(file, WaypointFile, environment)
    assert settings.gateway.cluster_id == 'a "name"'
    assert settings.gateway.network == "n"
    assert settings.gateway.key == f"{told['POD_NAMESPACE']}/w"
    assert settings.drain_seconds + 5 == spec.termination_grace_period_seconds
    assert settings.control_plane.server_name == f"ambimesh-operator.{NAMESPACE}.svc"
    mounts = {mount["mountPath"] for mount in container.volume_mounts}
    assert {str(settings.control_plane.token.parent), str(settings.control_plane.root_certificate.parent)} <= mounts
    assert container.command[-1] == "/etc/ambimesh/waypoint.yaml"


def test_settings_that_change_replace_the_pods() -> None:
    def mark(given: dict[str, Any]) -> str:
        template = _rendered(given)[("DaemonSet", NAMESPACE, "ambimesh-ztunnel")]["spec"]["template"]
        return str(template["metadata"]["annotations"]["ambimesh.dev/settings"])

    assert mark({}) == mark({"operator": {"replicas": 3}})
    assert mark({}) != mark({"ztunnel": {"accessLog": "off"}})


def _pods() -> list[tuple[str, dict[str, Any]]]:
    return [
        (name, value["spec"]["template"]["spec"])
        for (kind, _, name), value in _rendered({}).items()
        if kind in ("Deployment", "DaemonSet")
    ]


def test_nothing_is_privileged_and_everything_is_pinned_down() -> None:
    rights = {}
    for name, pod in _pods():
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert not context.get("privileged", False)
            assert context["capabilities"]["drop"] == ["ALL"]
            assert "limits" in container["resources"]
            assert container["readinessProbe"]
            rights[name] = set(context["capabilities"].get("add", []))
    assert rights == {
        "ambimesh-operator": set(),
        "ambimesh-agent": {"BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN", "SYSLOG", "SYS_PTRACE"},
        "ambimesh-ztunnel": {"BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"},
    }


def test_a_pod_that_waits_for_the_api_server_is_not_killed_for_it() -> None:
    """Kubelet starts a killed container again later and later: back would be whoever it waits for, but not it."""
    for name, pod in _pods():
        for container in pod["containers"]:
            assert "livenessProbe" not in container, name
            probe = container["startupProbe"]
            assert probe["periodSeconds"] * probe["failureThreshold"] >= 3600, name


def test_operators_of_one_revision_are_spread_over_nodes() -> None:
    """A rollout that counted the old ones too could leave all of them on one node, and the mesh without operator."""
    deployment = _rendered({})[("Deployment", NAMESPACE, "ambimesh-operator")]
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"] == deployment["spec"]["selector"]
    assert spread["matchLabelKeys"] == ["pod-template-hash"]


def test_selectors_find_their_pods_and_mounts_their_volumes() -> None:
    for (kind, _, name), value in _rendered({}).items():
        if kind not in ("Deployment", "DaemonSet"):
            continue
        template = value["spec"]["template"]
        assert value["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes, name
            ports = {port["name"] for port in container["ports"]}
            assert container["readinessProbe"]["httpGet"]["port"] in ports


def test_nobody_may_read_all_secrets() -> None:
    for (kind, _, name), value in _rendered({}).items():
        for rule in value.get("rules", []) if kind in ("ClusterRole", "Role") else []:
            assert "*" not in rule["verbs"], name
            if "secrets" in rule["resources"]:
                assert kind == "Role"
                assert rule["verbs"] == ["create"] or rule["resourceNames"]


def test_secrets_may_be_read_where_it_is_asked_for() -> None:
    asked = {"waypoints": {"credentials": True}}
    role = _rendered(asked)[("ClusterRole", "", "ambimesh-operator")]
    found = [rule for rule in role["rules"] if rule["resources"] == ["secrets"]]
    assert found == [{"apiGroups": [""], "resources": ["secrets"], "verbs": list(OPERATOR_CREDENTIALS[0].verbs)}]
    assert _settings("ambimesh-operator", **asked)["source"] == {"kubernetes": {"read_secrets": True}}
    assert _settings("ambimesh-operator")["source"] == {"kubernetes": {"read_secrets": False}}


def test_a_chart_that_is_not_there_or_none_is_told() -> None:
    with pytest.raises(EnvironmentLacks, match="chart"):
        load_chart(Path("/nonexistent"))
    chart = load_chart()
    broken = Chart(chart.name, "1", "1", {"templates/a.yaml": "a: [{{ .Release.Name }}"}, chart.defaults)
    with pytest.raises(ConfigurationError, match=r"templates/a\.yaml"):
        render(broken, {}, namespace=NAMESPACE)

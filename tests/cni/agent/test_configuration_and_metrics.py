from pathlib import Path

import pytest
from prometheus_client import generate_latest

from cni.agent.configuration import AgentSettings
from cni.agent.metrics import AgentMetrics
from cni.installer.driver import Look
from mesh.config import load
from mesh.errors import ConfigurationError, EnvironmentLacks

SMALLEST = """
node: {name: node1}
source: {folder: /cluster}
bpf: {ztunnel_cgroups: [/sys/fs/cgroup/ztunnel]}
"""


def read(tmp_path: Path, text: str) -> AgentSettings:
    (tmp_path / "agent.yaml").write_text(text)
    return load(tmp_path / "agent.yaml", AgentSettings)


def test_the_smallest_file_has_the_documented_defaults(tmp_path: Path) -> None:
    settings = read(tmp_path, SMALLEST)
    assert settings.cni.socket == Path("/run/ambimesh/cni.sock")
    assert settings.ztunnel.socket == Path("/run/ambimesh/ztunnel.sock")
    assert (settings.http.port, settings.rules().excluded_namespaces) == (15014, frozenset({"kube-system"}))
    node = settings.node_settings()
    assert (node.node, node.cgroup, node.ztunnel_cgroups) == (
        "node1",
        Path("/sys/fs/cgroup"),
        (Path("/sys/fs/cgroup/ztunnel"),),
    )
    assert settings.installation().entry == {"type": "ambimesh-cni", "agentSocket": "/run/ambimesh/cni.sock"}


def test_beside_version_1_the_cgroup_of_version_2_is_found(tmp_path: Path) -> None:
    mounts = (
        "31 22 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    settings = read(tmp_path, SMALLEST).on_node(mounts)
    assert settings.node_settings().cgroup == Path("/sys/fs/cgroup/unified")
    assert settings.pod_cgroup_patterns()[0].startswith("/sys/fs/cgroup/unified/kubepods.slice/")


def test_the_plugins_default_socket_is_the_agents(tmp_path: Path) -> None:
    source = (Path(__file__).parents[3] / "cni" / "plugin" / "ambimesh-cni.c").read_text()
    assert f'#define DEFAULT_SOCKET "{read(tmp_path, SMALLEST).cni.socket}"' in source


@pytest.mark.parametrize(
    ("addition", "path"),
    [
        ("cnii: {}", "cnii"),
        ("cni: {pod_wait_seconds: 0}", r"\$\.cni\.pod_wait_seconds"),
        ("http: {port: 70000}", r"\$\.http\.port"),
        ("enrolment: {own_pods: [{labels: {}}]}", r"\$\.enrolment\.own_pods\[0\]"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, addition: str, path: str) -> None:
    with pytest.raises(ConfigurationError, match=path):
        read(tmp_path, SMALLEST + addition + "\n")


def test_metrics_have_the_names_dashboards_know() -> None:
    metrics = AgentMetrics()
    metrics.installed(Look(None))
    metrics.installed(Look(None, EnvironmentLacks("disk full")))
    metrics.installed(Look(None, EnvironmentLacks("disk full")))
    metrics.installed(Look(Path("/etc/cni/net.d/10-net.conflist")))
    metrics.installed(Look(Path("/etc/cni/net.d/10-net.conflist")))
    metrics.plugin_request("ADD", "11")
    metrics.reconciled("enrol")
    metrics.repaired("enrol", False)
    metrics.ztunnels(2)
    page = generate_latest(metrics.registry).decode()
    for line in (
        "istio_cni_install_ready 1.0",
        'istio_cni_installs_total{result="SUCCESS"} 1.0',
        'istio_cni_installs_total{result="FAILURE"} 1.0',
        'istio_cni_plugin_requests_total{code="11",command="ADD"} 1.0',
        'istio_cni_repair_pods_repaired_total{result="FAILURE",type="enrol"} 1.0',
        'nodeagent_reconcile_events_total{type="enrol"} 1.0',
        "ztunnel_connected 2.0",
    ):
        assert line in page

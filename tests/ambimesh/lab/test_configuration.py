"""The files the lab writes for its processes are those the processes read."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Literal

import pytest
import trio
import yaml

from ambimesh.lab import mesh_processes, record
from ambimesh.lab.bring_up import Wish, bring_up, network_configuration
from ambimesh.lab.kubelet.cni_plan import choose_network
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.mesh_processes import Planned
from ambimesh.lab.record import Lab, LabRecord, ProcessSettings
from ambimesh.lab.settings import ControllerSettings, KubeletSettings
from ambimesh.lab.stand_ins import stand_ins
from cni.agent.configuration import AgentSettings
from controlplane.config import OperatorSettings
from mesh import config
from mesh.config import SettingsT
from mesh.errors import ConfigurationError
from waypoint.config import WaypointSettings
from ztunnel.config import ZtunnelSettings


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    layout = LabLayout.named("lab", tmp_path)
    layout.tokens.mkdir(parents=True)
    return Lab(
        layout,
        LabRecord(name="lab", nodes=2, mesh=True, cgroup=str(tmp_path / "cgroup"), certificate_lifetime_seconds=20),
    )


def read(planned: Planned, kind: type[SettingsT]) -> SettingsT:
    return config.decode(yaml.safe_dump(planned.settings), "file", kind, {})


def test_the_mesh_reads_what_the_lab_writes(lab: Lab) -> None:
    node = lab.node("node2")
    callers = mesh_processes.make_tokens(lab)
    agent = read(mesh_processes.agent_process(lab, node, Path("/plugin")), AgentSettings)
    ztunnel = read(mesh_processes.ztunnel_process(lab, node), ZtunnelSettings)
    operator = read(mesh_processes.operator_process(lab, callers), OperatorSettings)
    assert operator.grpc.server_name == ztunnel.control_plane.server_name
    assert operator.authority.published_roots == ztunnel.control_plane.root_certificate
    assert agent.ztunnel.socket == ztunnel.zds_socket
    assert agent.bpf.bpffs == ztunnel.bpf.bpffs
    assert agent.bpf.cgroup == Path(lab.record.cgroup) / "node2"
    assert ztunnel.certificate_lifetime_seconds == 20


@pytest.mark.parametrize("wish", [3, "auto"])
def test_ztunnel_has_the_workers_that_were_wished_for(tmp_path: Path, wish: Literal["auto"] | int) -> None:
    layout = LabLayout.named("lab", tmp_path)
    wished = Lab(layout, LabRecord(name="lab", nodes=1, mesh=True, cgroup="/sys/fs/cgroup/lab", workers=wish))
    settings = read(mesh_processes.ztunnel_process(wished, wished.nodes[0]), ZtunnelSettings)
    assert settings.workers == wish


def test_more_configuration_is_laid_over_the_labs(tmp_path: Path) -> None:
    layout = LabLayout.named("lab", tmp_path)
    layout.tokens.mkdir(parents=True)
    authorizer = {"name": "judge", "service": "demo/judge", "port": 1, "protocol": "grpc"}
    more = ProcessSettings(
        operator={"authorizers": [authorizer]},
        ztunnel={"kernel_tls": "auto"},
        waypoint={"rate_limit_store": {"host": "10.0.0.1"}},
    )
    lab = Lab(layout, LabRecord(name="lab", nodes=1, mesh=True, cgroup="/sys/fs/cgroup/lab", settings=more))
    operator = read(mesh_processes.operator_process(lab, []), OperatorSettings)
    assert [each.name for each in operator.authorizers] == ["judge"]
    assert operator.waypoints is not None
    ztunnel = read(mesh_processes.ztunnel_process(lab, lab.nodes[0]), ZtunnelSettings)
    assert (ztunnel.kernel_tls, ztunnel.node.name) == ("auto", "node1")
    own = dict.fromkeys(
        ("GATEWAY_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT", "POD_NAME", "POD_IP", "NODE_NAME"), "x"
    )
    environment = {**own, **operator.waypoints.environment}
    waypoint = config.load(mesh_processes.waypoint_configuration(lab), WaypointSettings, environment)
    assert waypoint.drain_seconds + 5 == operator.waypoints.grace_seconds
    assert waypoint.rate_limit_store is not None
    assert (waypoint.rate_limit_store.host, waypoint.gateway.name) == ("10.0.0.1", "x")


def test_the_operator_knows_digests_and_no_token(lab: Lab) -> None:
    callers = mesh_processes.make_tokens(lab)
    planned = mesh_processes.operator_process(lab, callers)
    known = Path(planned.settings["authentication"]["tokens"])
    tokens = [mesh_processes.token_file(lab, node) for node in lab.nodes]
    assert [entry["node"] for entry in callers] == ["node1", "node2"]
    for token in tokens:
        assert token.read_text() not in known.read_text()
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert tokens[0].read_text() != tokens[1].read_text()


def test_the_stand_ins_read_what_the_lab_writes(lab: Lab) -> None:
    found = stand_ins(lab)
    for spec, _ in found:
        assert spec.argv[-1] == str(lab.layout.config / f"{spec.name}.yaml")
    assert [type(settings) for _, settings in found] == [ControllerSettings, KubeletSettings, KubeletSettings]


def test_a_nodes_network_is_one_a_runtime_takes(lab: Lab) -> None:
    network = choose_network({"10.conflist": json.dumps(network_configuration(lab.node("node1"))).encode()})
    assert [plugin["type"] for plugin in network.plugins] == ["bridge"]
    assert network.plugins[0]["ipam"]["ranges"] == [[{"subnet": "10.244.1.0/24"}], [{"subnet": "fd00:10:244:1::/64"}]]


def test_a_record_is_read_back_and_its_absence_told(lab: Lab) -> None:
    assert record.find(lab.layout) is None
    with pytest.raises(ConfigurationError, match="there is no lab lab; bring one up: ambimesh lab up"):
        record.require(lab.layout)
    record.write(lab)
    assert record.require(lab.layout).record == lab.record
    with pytest.raises(ConfigurationError, match="has no node 'node3': its last is node2"):
        lab.node("node3")


@pytest.mark.parametrize("nodes", [0, 17])
async def test_a_senseless_number_of_nodes_is_refused_before_anything_is_made(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(ConfigurationError, match="a lab has 1 to 16 nodes"):
        await bring_up(Wish(layout=LabLayout.named("lab", tmp_path), nodes=nodes), lambda _: None)
    assert not await trio.Path(tmp_path / "lab").exists()

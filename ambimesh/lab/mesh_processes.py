"""How the mesh's own processes are started in a lab: the very programs that run in a cluster, each with its file.

The operator runs in the control plane's namespace, an agent and a ztunnel in each node's. What a cluster would give
them is given here: a CNI folder per node, one BPF filesystem, and service account tokens, of which the operator is told
only the hashes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ambimesh.dump_codec import ADMIN_PORT
from ambimesh.lab.controller.tokens import KNOWN_FILE, NODES_FILE, write_secret
from ambimesh.lab.layout import CONTROL_IPV4, OPERATOR_PORT, NodeLayout
from ambimesh.lab.processes import ProcessSpec
from ambimesh.lab.programs import run
from ambimesh.lab.record import Lab
from cni.agent import configuration as agent
from controlplane import config as operator
from mesh import compiled
from mesh.config import Settings
from mesh.control_plane import ControlPlaneGroup
from mesh.errors import EnvironmentLacks
from resources.documents import without_nulls
from waypoint import config as waypoint
from ztunnel import config as ztunnel

OPERATOR = "operator"
OPERATOR_SERVER_NAME = "ambimesh-operator.ambimesh-system.svc"
OPERATOR_HTTP_PORT = 15014
AGENT_HTTP_PORT = 15014
ZTUNNEL_METRICS_PORT = 15020
ZTUNNEL_READY_PORT = 15021
MESH_NAMESPACE = "ambimesh-system"
ZTUNNEL_ACCOUNT = "ztunnel"

_CHECKOUT = Path(__file__).resolve().parent.parent.parent
_PLUGIN = "ambimesh-cni"
_DRAIN_SECONDS = 4.0
"""Less than ``lab down`` waits before it kills."""
_WAYPOINT_GRACE_SECONDS = 9
"""Five more than a waypoint drains."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A process and the configuration file it reads."""

    spec: ProcessSpec
    settings: dict[str, Any]


def agent_name(node: str) -> str:
    """The process name of a node's agent."""
    return f"agent-{node}"


def ztunnel_name(node: str) -> str:
    """The process name of a node's ztunnel."""
    return f"ztunnel-{node}"


def operator_process(lab: Lab, callers: list[dict[str, str]]) -> Planned:
    """The operator; ``callers`` are the entries of ``make_tokens``."""
    tokens = lab.layout.tokens / KNOWN_FILE
    for file in (tokens, lab.layout.tokens / NODES_FILE):
        write_secret(file, yaml.safe_dump({"tokens": callers}))
    settings = operator.OperatorSettings(
        source=operator.SourceGroup(folder=lab.layout.cluster),
        authority=operator.AuthorityGroup(
            folder=lab.layout.certificates,
            published_roots=root_certificate(lab),
            default_lifetime_seconds=lab.record.certificate_lifetime_seconds,
        ),
        authentication=operator.AuthenticationGroup(
            tokens=tokens, trusted_node_accounts=[f"{MESH_NAMESPACE}/{ZTUNNEL_ACCOUNT}"]
        ),
        grpc=operator.GrpcGroup(port=OPERATOR_PORT, server_name=OPERATOR_SERVER_NAME),
        waypoints=operator.WaypointGroup(
            command=[sys.executable, "-m", "waypoint", "--config", str(waypoint_configuration(lab))],
            environment={"DRAIN_SECONDS": str(_DRAIN_SECONDS)},
            grace_seconds=_WAYPOINT_GRACE_SECONDS,
        ),
        tracing=operator.TracingGroup(
            collectors=[operator.CollectorGroup(name="spans", service="observe/spans.observe.svc.cluster.local")]
        ),
        http=operator.HttpGroup(port=OPERATOR_HTTP_PORT),
    )
    cgroup = lab.cgroup / "control" / OPERATOR
    spec = _process(lab, OPERATOR, "controlplane", lab.layout.control_netns, cgroup, OPERATOR_HTTP_PORT, {})
    return Planned(spec, {**_plain(settings), **lab.record.settings.operator})


def waypoint_configuration(lab: Lab) -> Path:
    """Write the one file that all waypoints of a lab read; what differs comes from each pod's environment."""
    settings = waypoint.WaypointSettings(
        gateway=waypoint.GatewayGroup(
            name="${GATEWAY_NAME}",
            namespace="${POD_NAMESPACE}",
            service_account="${SERVICE_ACCOUNT}",
            pod_name="${POD_NAME}",
            pod_ip="${POD_IP}",
            node="${NODE_NAME}",
        ),
        control_plane=_control_plane(lab, lab.layout.tokens / "${POD_NAMESPACE}_${SERVICE_ACCOUNT}.token"),
        drain_seconds=_DRAIN_SECONDS,
        certificate_lifetime_seconds=lab.record.certificate_lifetime_seconds,
    )
    file = lab.layout.config / "waypoint.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    varying = {"drain_seconds": "${DRAIN_SECONDS}"}
    file.write_text(
        yaml.safe_dump({**_plain(settings), **varying, **lab.record.settings.waypoint}, sort_keys=False)
    )
    return file


def agent_process(lab: Lab, node: NodeLayout, plugin: Path) -> Planned:
    """A node's agent; ``plugin`` is the built CNI plugin."""
    cgroup = lab.node_cgroup(node)
    settings = agent.AgentSettings(
        node=agent.NodeGroup(name=node.name),
        source=agent.SourceGroup(folder=lab.layout.cluster),
        cni=agent.CniGroup(
            socket=node.run / "cni.sock",
            binary=plugin,
            net_directory=node.cni_config,
            binary_directory=node.cni_programs,
        ),
        bpf=agent.BpfGroup(
            bpffs=lab.layout.bpffs,
            cgroup=cgroup,
            ztunnel_cgroups=(cgroup / "ztunnel",),
            kubelet_cgroups=(cgroup / "kubelet",),
        ),
        ztunnel=agent.ZtunnelGroup(socket=node.run / "ztunnel.sock"),
        http=agent.HttpGroup(port=AGENT_HTTP_PORT),
        state_directory=node.run / "agent",
        pod_cgroups=(f"{cgroup}/pods/{{namespace}}_{{name}}",),
    )
    spec = _process(
        lab, agent_name(node.name), "cni", node.netns, cgroup / "agent", AGENT_HTTP_PORT, _compiler()
    )
    return Planned(spec, _plain(settings))


def ztunnel_process(lab: Lab, node: NodeLayout) -> Planned:
    """A node's ztunnel."""
    settings = ztunnel.ZtunnelSettings(
        node=ztunnel.NodeGroup(
            name=node.name, pod_name=ztunnel_name(node.name), pod_namespace=MESH_NAMESPACE, pod_ip=node.ipv4
        ),
        zds_socket=node.run / "ztunnel.sock",
        bpf=ztunnel.BpfGroup(bpffs=lab.layout.bpffs),
        control_plane=_control_plane(lab, token_file(lab, node)),
        admin=ztunnel.AdminGroup(
            admin_port=ADMIN_PORT, metrics_port=ZTUNNEL_METRICS_PORT, readiness_port=ZTUNNEL_READY_PORT
        ),
        drain_seconds=_DRAIN_SECONDS,
        certificate_lifetime_seconds=lab.record.certificate_lifetime_seconds,
    )
    if lab.record.workers is not None:
        settings = msgspec.structs.replace(settings, workers=lab.record.workers)
    cgroup = lab.node_cgroup(node) / "ztunnel"
    environment = {"OPENSSL_CONF": str(_CHECKOUT / "mesh" / "tls" / "openssl.cnf")}
    if (form := os.environ.get(compiled.VARIABLE)) is not None:
        environment[compiled.VARIABLE] = form
    spec = _process(
        lab, ztunnel_name(node.name), "ztunnel", node.netns, cgroup, ZTUNNEL_READY_PORT, environment
    )
    return Planned(spec, {**_plain(settings), **lab.record.settings.ztunnel})


def _control_plane(lab: Lab, token: Path) -> ControlPlaneGroup:
    return ControlPlaneGroup(
        address=f"{CONTROL_IPV4}:{OPERATOR_PORT}",
        server_name=OPERATOR_SERVER_NAME,
        root_certificate=root_certificate(lab),
        token=token,
    )


def root_certificate(lab: Lab) -> Path:
    """Where the operator publishes its root certificate."""
    return lab.layout.root / "root-certificates.pem"


def token_file(lab: Lab, node: NodeLayout) -> Path:
    """The token of a node's ztunnel."""
    return lab.layout.tokens / f"{ztunnel_name(node.name)}.token"


def make_tokens(lab: Lab) -> list[dict[str, str]]:
    """Give every node's ztunnel a token; the entries by which the operator knows their holders."""
    entries: list[dict[str, str]] = []
    for node in lab.nodes:
        token = secrets.token_urlsafe(32)
        write_secret(token_file(lab, node), token)
        entries.append(
            {
                "sha256": hashlib.sha256(token.encode()).hexdigest(),
                "node": node.name,
                "namespace": MESH_NAMESPACE,
                "service_account": ZTUNNEL_ACCOUNT,
            }
        )
    return entries


async def find_plugin(lab: Lab) -> Path:
    """The static CNI plugin: the one ``make setup`` built, else one built now into the lab's folder.

    Raises:
        EnvironmentLacks: there is none, and no compiler to build it.
    """
    built = _CHECKOUT / ".build" / "bin" / _PLUGIN
    if built.is_file():
        return built
    script = _CHECKOUT / "cni" / "plugin" / "build.sh"
    target = lab.layout.root / _PLUGIN
    try:
        await run(["sh", str(script), str(target)], timeout=60)
    except EnvironmentLacks as error:
        raise EnvironmentLacks(f"the CNI plugin could not be built: {error}; remedy: make setup") from error
    return target


def _plain(settings: Settings) -> dict[str, Any]:
    plain = without_nulls(msgspec.to_builtins(settings, enc_hook=str))
    assert isinstance(plain, dict)
    return plain


def _compiler() -> dict[str, str]:
    """Where the programs' compiler finds kernel headers, when the caller was told."""
    return {name: value for name in ("BCC_KERNEL_SOURCE",) if (value := os.environ.get(name))}


def _process(
    lab: Lab, name: str, module: str, netns: Path, cgroup: Path, ready_port: int, environment: dict[str, str]
) -> ProcessSpec:
    return ProcessSpec(
        name=name,
        argv=(sys.executable, "-m", module, "--config", str(lab.layout.config / f"{name}.yaml")),
        netns=str(netns),
        cgroup=str(cgroup),
        environment=environment,
        ready_port=ready_port,
    )

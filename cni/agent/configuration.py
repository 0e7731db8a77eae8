"""The agent's configuration file."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from cni.enrolment import EnrolmentRules, PodSelector
from cni.installer.driver import Installation
from ebpf.features import cgroup_folder
from ebpf.paths import PinPaths
from ebpf.settings import MapSizes, NodeSettings
from mesh.config import Port, Seconds, Settings
from mesh.zds.server_driver import ZdsLimits

MapEntries = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]


class NodeGroup(Settings, frozen=True, kw_only=True):
    """Which node this is."""

    name: str
    """As in pods' ``spec.nodeName``."""


class KubernetesGroup(Settings, frozen=True, kw_only=True):
    """The Kubernetes API."""

    kubeconfig: Path | None = None
    """None: what ``KUBECONFIG`` names, else the service account of the pod we run in."""
    context: str | None = None
    """A context of the kubeconfig; None: its current one."""


class SourceGroup(Settings, frozen=True, kw_only=True):
    """Where pods and namespaces come from: one of the two."""

    folder: Path | None = None
    """A folder of manifests."""
    kubernetes: KubernetesGroup | None = None
    """The Kubernetes API."""


class CniGroup(Settings, frozen=True, kw_only=True):
    """The CNI plugin and its place on the node."""

    socket: Path = Path("/run/ambimesh/cni.sock")
    """Where the plugin finds the agent."""
    install: bool = True
    """Chain the plugin into the node's CNI configuration and keep it there."""
    binary: Path | None = None
    """The built plugin, copied into ``binary_directory``; none: it is there already."""
    net_directory: Path = Path("/etc/cni/net.d")
    binary_directory: Path = Path("/opt/cni/bin")
    net_directory_of_node: Path | None = None
    """What the node calls ``net_directory``, in messages, where that is a mount of a container's; none: the same."""
    binary_directory_of_node: Path | None = None
    """The same for ``binary_directory``."""
    pod_wait_seconds: Seconds = 5.0
    """How long an ADD waits for the source to show the pod; then it fails and the runtime tries again."""


class BpfGroup(Settings, frozen=True, kw_only=True):
    """The kernel side."""

    bpffs: Path = Path("/sys/fs/bpf")
    """A mounted bpf file system."""
    cgroup: Path = Path("/sys/fs/cgroup")
    """The cgroup v2 folder that the programs are attached to; all pods are below it. Or a folder below which cgroup v2
    is mounted, as it is beside version 1's controllers."""
    ztunnel_cgroups: tuple[Path, ...] = ()
    """The cgroups ztunnel's processes are in; none: that of the mesh's pod that connects to us as ztunnel."""
    kubelet_cgroups: tuple[Path, ...] = ()
    """The cgroups whose connections to pods are probes; none: kubelet's, found by ``kubelet_names``."""
    kubelet_names: tuple[str, ...] = ("kubelet", "k3s-server", "k3s-agent")
    """What the process that has kubelet in it may be called."""
    map_pods: MapEntries = MapSizes().pods
    map_pod_addresses: MapEntries = MapSizes().pod_addresses
    map_handoffs: MapEntries = MapSizes().handoffs
    map_tickets: MapEntries = MapSizes().tickets
    map_listeners: MapEntries = MapSizes().listeners


class SelectorGroup(Settings, frozen=True, kw_only=True):
    """Pods of one namespace with all these labels."""

    namespace: str
    labels: dict[str, str]


class EnrolmentGroup(Settings, frozen=True, kw_only=True):
    """Pods that are never enrolled, whatever their labels say."""

    excluded_namespaces: tuple[str, ...] = ("kube-system",)
    own_pods: tuple[SelectorGroup, ...] = (
        SelectorGroup(namespace="ambimesh-system", labels={"app.kubernetes.io/name": "ambimesh-ztunnel"}),
        SelectorGroup(namespace="ambimesh-system", labels={"app.kubernetes.io/name": "ambimesh-agent"}),
    )


class ZtunnelGroup(Settings, frozen=True, kw_only=True):
    """The node's ztunnel."""

    socket: Path = Path("/run/ambimesh/ztunnel.sock")
    """Where it finds the agent (ZDS)."""
    acknowledgement_seconds: Seconds = 10.0
    """For one pod; then its connection is given up."""


class HttpGroup(Settings, frozen=True, kw_only=True):
    """Metrics and readiness."""

    host: str = "::"
    port: Port = 15014


class LogGroup(Settings, frozen=True, kw_only=True):
    """The agent's log."""

    level: str = "info"
    format: Literal["text", "json"] = "text"


class AgentSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    node: NodeGroup
    source: SourceGroup
    bpf: BpfGroup
    cni: CniGroup = CniGroup()
    enrolment: EnrolmentGroup = EnrolmentGroup()
    ztunnel: ZtunnelGroup = ZtunnelGroup()
    http: HttpGroup = HttpGroup()
    log: LogGroup = LogGroup()
    state_directory: Path = Path("/run/ambimesh/agent")
    """What is remembered of sandboxes; it must not outlive a reboot."""
    pod_cgroups: tuple[str, ...] = (
        "kubepods.slice/kubepods-pod{uid_underscored}.slice",
        "kubepods.slice/*/kubepods-*-pod{uid_underscored}.slice",
        "kubepods/pod{uid}",
        "kubepods/*/pod{uid}",
        "*/*-kubepods.slice/*-kubepods-pod{uid_underscored}.slice",
        "*/*-kubepods.slice/*/*-kubepods-*-pod{uid_underscored}.slice",
        "*/kubepods/pod{uid}",
        "*/kubepods/*/pod{uid}",
    )
    """Glob patterns of a pod's cgroup, with ``{uid}``, ``{uid_underscored}``, ``{namespace}``, ``{name}``; below
    ``bpf.cgroup`` when they do not begin with a slash. These are of either driver, the latter four of kubelets with a
    ``cgroupRoot``, as in nodes that are containers themselves."""
    proc: Path = Path("/proc")
    """The node's process file system."""

    @property
    def pin_paths(self) -> PinPaths:
        """Where this node's programs and maps are pinned."""
        return PinPaths(self.bpf.bpffs, self.node.name)

    def on_node(self, mountinfo: str) -> AgentSettings:
        """The same with what was found on this node.

        Args:
            mountinfo: the text of ``/proc/self/mountinfo``.

        Raises:
            EnvironmentLacks: ``bpf.cgroup`` has to do with no cgroup v2.
        """
        cgroup = cgroup_folder(self.bpf.cgroup, mountinfo)
        return msgspec.structs.replace(self, bpf=msgspec.structs.replace(self.bpf, cgroup=cgroup))

    def node_settings(self) -> NodeSettings:
        """What the programs are loaded with."""
        sizes = MapSizes(
            pods=self.bpf.map_pods,
            pod_addresses=self.bpf.map_pod_addresses,
            handoffs=self.bpf.map_handoffs,
            tickets=self.bpf.map_tickets,
            listeners=self.bpf.map_listeners,
        )
        return NodeSettings(
            node=self.node.name,
            bpffs=self.bpf.bpffs,
            cgroup=self.bpf.cgroup,
            ztunnel_cgroups=self.bpf.ztunnel_cgroups,
            kubelet_cgroups=self.bpf.kubelet_cgroups,
            map_sizes=sizes,
        )

    def pod_cgroup_patterns(self) -> list[str]:
        """``pod_cgroups`` as whole paths."""
        return [os.path.join(glob.escape(str(self.bpf.cgroup)), pattern) for pattern in self.pod_cgroups]

    def rules(self) -> EnrolmentRules:
        """Who is never enrolled."""
        return EnrolmentRules(
            excluded_namespaces=frozenset(self.enrolment.excluded_namespaces),
            own_pods=tuple(PodSelector(entry.namespace, entry.labels) for entry in self.enrolment.own_pods),
        )

    def installation(self) -> Installation:
        """Where the plugin goes."""
        return Installation(
            net_directory=self.cni.net_directory,
            binary_directory=self.cni.binary_directory,
            binary=self.cni.binary,
            agent_socket=self.cni.socket,
            net_directory_of_node=self.cni.net_directory_of_node,
            binary_directory_of_node=self.cni.binary_directory_of_node,
        )

    def zds_limits(self) -> ZdsLimits:
        """Bounds of the agent's side of ZDS."""
        return ZdsLimits(acknowledgement=self.ztunnel.acknowledgement_seconds)

"""What a node boots with and is configured by, as text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.e2e.kit.cgroups import FIRST_PROCESS, Hierarchy
from tests.e2e.kit.segment import POD_RANGE, node_address, pod_range

DNS_ADDRESS = "10.96.0.10"
"""Where pods ask for names."""
CLUSTER_DOMAIN = "cluster.local"
SANDBOX_IMAGE = "localhost/pause:1"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
OVERLAID = ("etc", "opt", "var")
"""Trees of the machine that a node sees, and whose changes are the node's own."""
KEPT = (
    "etc/cni/net.d", "opt/cni/bin", "var/lib/cni", "var/lib/containerd", "var/lib/kubelet", "var/log/containers",
    "var/log/pods",
)  # fmt: skip
"""Folders of the node's disk: empty at first whatever the machine has there, and kept over reboots."""
_KERNEL_SETTINGS = (
    ("vm/overcommit_memory", 1), ("vm/panic_on_oom", 0), ("kernel/panic", 10), ("kernel/panic_on_oops", 1),
    ("kernel/keys/root_maxkeys", 1_000_000), ("kernel/keys/root_maxbytes", 25_000_000),
)  # fmt: skip
"""What kubelet sets, for the whole machine if it could."""


def boot_script(name: str, folder: Path, groups: Sequence[tuple[Hierarchy, Path]], pause: Path) -> str:
    """What the first process of a node's namespaces does: becomes a machine that has just been switched on.

    Args:
        name: of the node.
        folder: the node's on the machine; ``ready`` appears in it at the end.
        groups: the node's folder in each hierarchy.
        pause: what process 1 goes on as.
    """
    disk, script = folder / "disk", folder / "boot"
    lines = ["#!/bin/sh", "set -eu"]
    # The cgroup namespace begins where the process is: first into the node's folders, then the namespace.
    lines += ['if [ "${1:-}" != inside ]; then']
    lines += [f"    echo 0 >{_quoted(group / 'cgroup.procs')}" for _, group in groups]
    lines += [f"    exec unshare --cgroup -- {_quoted(script)} inside", "fi"]
    lines += [f"hostname {name}", "mount --make-rprivate /", "mount -t proc proc /proc"]
    for tree in OVERLAID:
        layers = f"lowerdir=/{tree},upperdir={disk / tree},workdir={disk / f'{tree}.work'}"
        lines.append(f"mount -t overlay overlay -o {_quoted(layers)} /{tree}")
    for kept in KEPT:
        lines += [f"mkdir -p /{kept}", f"mount --bind {_quoted(disk / 'kept' / kept)} /{kept}"]
    # Copies of the machine's mounts there would keep other people's network namespaces alive.
    lines += ["grep -o ' /run/[^ ]*' /proc/self/mounts | sort -r | xargs -r -n 1 umount -l"]
    lines += ["mount -t tmpfs tmpfs /run", "mkdir -p /run/netns /run/containerd /run/lock"]
    lines += ["mount -t sysfs sysfs /sys", "mount -t bpf bpf /sys/fs/bpf"]
    lines += _cgroup_mounts([hierarchy for hierarchy, _ in groups])
    for number, (setting, value) in enumerate(_KERNEL_SETTINGS):
        kept_back = folder / f"setting-{number}"
        lines += [f"echo {value} >{_quoted(kept_back)}", f"mount --bind {_quoted(kept_back)} /proc/sys/{setting}"]
    # Mounts made later, by containers that are allowed to, show up elsewhere in the node.
    lines += ["mount --make-rshared /"]
    lines += ["ip link set lo up", "echo 1 >/proc/sys/net/ipv4/ip_forward"]
    lines += [f"touch {_quoted(folder / 'ready')}", f"exec {_quoted(pause)}"]
    return "\n".join(lines) + "\n"


def _cgroup_mounts(hierarchies: Sequence[Hierarchy]) -> list[str]:
    lines = []
    top = Path("/sys/fs/cgroup")
    if all(hierarchy.mounted != top for hierarchy in hierarchies):
        lines.append(f"mount -t tmpfs tmpfs {top}")
    for hierarchy in hierarchies:
        options = f"-o {hierarchy.options} " if hierarchy.options else ""
        place = _quoted(hierarchy.mounted)
        lines += [f"[ -d {place} ] || mkdir -p {place}", f"mount -t {hierarchy.kind} {options}cgroup {place}"]
        if hierarchy.groups_services:
            lines += [f"mkdir -p {place}/{FIRST_PROCESS}", f"echo 1 >{place}/{FIRST_PROCESS}/cgroup.procs"]
        if hierarchy.kind == "cgroup2":
            # Possible only now that the root is empty.
            lines.append(f"for each in $(cat {place}/cgroup.controllers); do")
            lines.append(f"    echo +$each >{place}/cgroup.subtree_control; done")
    return lines


def service_script(folder: str, hierarchies: Sequence[Hierarchy], command: Sequence[str | Path]) -> str:
    """A shell's commands that put it into the cgroups of a service and go on as that service."""
    lines = []
    for hierarchy in hierarchies:
        place = hierarchy.mounted / folder if hierarchy.groups_services else hierarchy.mounted
        lines += [f"mkdir -p {_quoted(place)}"] if hierarchy.groups_services else []
        lines += [f"echo 0 >{_quoted(place / 'cgroup.procs')}"]
    return " && ".join([*lines, f"exec {shlex.join([str(word) for word in command])}"])


def containerd_configuration() -> str:
    """Debian's containerd, TOML."""
    # Without restrict_oom_score_adj a sandbox wants a score below the kit's own, which takes CAP_SYS_RESOURCE.
    return f"""
version = 2
oom_score = 0
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
"""


def cni_configuration(number: int) -> str:
    """The chain that a plain cluster has: a bridge, addresses of the node's range, host ports."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": False,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": pod_range(number)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}, indent=1)


def kubelet_configuration(number: int, authority: Path, resolver: Path) -> str:
    """A ``KubeletConfiguration``."""
    settings: Mapping[str, object] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node_address(number),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "resolvConf": str(resolver),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        # The disk and memory are the machine's, which others fill too.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        # Tests wait for what kubelet notices; the defaults are made for thousands of nodes.
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "10s",
    }
    return json.dumps(settings, indent=1)


def proxy_configuration(name: str, kubeconfig: Path) -> str:
    """A ``KubeProxyConfiguration``."""
    settings = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "nftables",
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": name,
        "oomScoreAdj": 0,
        # The table of connections is sized for the whole machine.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    return json.dumps(settings, indent=1)


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))

"""The chart's values, group by group: what ``--set`` and ``-f`` take. ``values.schema.json`` is made of this."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from mesh.errors import ConfigurationError
from resources.documents import without_nulls
from resources.node import NOT_READY_TAINT

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]{1,64})`(?: - at `(?P<path>[^`]*)`)?$")
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)]
Quantity = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kKMGTPE]i?)?$")]
"""Of processor time or memory, as ``100m`` and ``128Mi``."""
Count = Annotated[int, Meta(ge=1, le=64)]
Folder = Annotated[str, Meta(pattern=r"^/[^\0]*$", max_length=4096)]


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of every group: keys in camel case, as Helm's users write them; unknown ones are refused."""


class Toleration(Group, frozen=True, kw_only=True):
    """As in a pod."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None


class Resources(Group, frozen=True, kw_only=True):
    """Requests and limits by resource."""

    requests: dict[str, Quantity] = field(default_factory=dict)
    limits: dict[str, Quantity] = field(default_factory=dict)


class Images(Group, frozen=True, kw_only=True):
    """Where images come from: ``<prefix>operator:<tag>`` and so on."""

    prefix: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._:/-]*$")] = "localhost/ambimesh-"
    tag: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{0,128}$")] = ""
    """The chart's version when empty."""
    pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    pull_secrets: list[Name] = field(default_factory=list)
    """Secrets in the mesh's namespace."""


class Mesh(Group, frozen=True, kw_only=True):
    """The mesh's names."""

    trust_domain: Name = "cluster.local"
    cluster_id: Annotated[str, Meta(min_length=1, max_length=253)] = "Kubernetes"
    cluster_domain: Name = "cluster.local"
    network: str = ""
    root_namespace: Name = "istio-system"
    """Policies without selector in this namespace are for the whole mesh."""


class Namespace(Group, frozen=True, kw_only=True):
    """The mesh's own namespace, which is the release's."""

    create: bool = False
    """``ambimesh install`` turns it on; Helm has ``--create-namespace``."""


class Log(Group, frozen=True, kw_only=True):
    """Process logs of all components."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Placement(Group, frozen=True, kw_only=True):
    """On which nodes pods run, and what of them they take."""

    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[Toleration] = field(default_factory=list)
    resources: Resources = Resources()


_EVERY_NODE = (Toleration(operator="Exists"),)
_NOT_READY = (Toleration(key=NOT_READY_TAINT, operator="Exists"),)


class Operator(Placement, frozen=True, kw_only=True):
    """The control plane."""

    replicas: Count = 2
    priority_class_name: str = "system-cluster-critical"
    tolerations: list[Toleration] = field(default_factory=lambda: list(_NOT_READY))
    """It takes that taint from nodes, so it must not wait for it."""
    resources: Resources = Resources(requests={"cpu": "100m", "memory": "128Mi"}, limits={"memory": "1Gi"})


class Agent(Placement, frozen=True, kw_only=True):
    """The node agent with the CNI plugin."""

    action: Literal["run", "uninstall"] = "run"
    """``uninstall`` takes the mesh off every node; the agents' pods are ready when that is done."""
    excluded_namespaces: list[Name] = field(default_factory=lambda: ["kube-system"])
    """Whose pods are never enrolled."""
    cni_net_directory: Folder = "/etc/cni/net.d"
    cni_binary_directory: Folder = "/opt/cni/bin"
    bpffs: Folder = "/sys/fs/bpf"
    cgroup: Folder = "/sys/fs/cgroup"
    """Of the node: the cgroup v2 folder that holds every pod's, or a folder below which cgroup v2 is mounted."""
    max_unavailable: Annotated[int, Meta(ge=0, le=10000)] | Annotated[str, Meta(pattern=r"^[0-9]+%$")] = "10%"
    """Agents that an update replaces at a time; a node without agent starts no new pods."""
    priority_class_name: str = "system-node-critical"
    tolerations: list[Toleration] = field(default_factory=lambda: list(_EVERY_NODE))
    resources: Resources = Resources(requests={"cpu": "50m", "memory": "96Mi"}, limits={"memory": "768Mi"})
    """Loading the eBPF programs takes a compiler for some seconds."""


class FastPath(Group, frozen=True, kw_only=True):
    """Connections between pods of one node, carried by the kernel."""

    enabled: bool = True
    splice: bool = True


class Ztunnel(Placement, frozen=True, kw_only=True):
    """The node proxy."""

    workers: Annotated[int, Meta(ge=0, le=64)] = 0
    """Processes that move bytes; 0: as many as there are cores to use."""
    kernel_tls: Literal["auto", "never"] = "never"
    """``auto``: the kernel encrypts what tunnels carry, where it can."""
    access_log: Literal["info", "warning", "off"] = "info"
    """``warning`` for failures only."""
    drain_seconds: Annotated[int, Meta(ge=1, le=3600)] = 25
    """How long established connections may go on when a ztunnel is replaced."""
    fast_path: FastPath = FastPath()
    priority_class_name: str = "system-node-critical"
    tolerations: list[Toleration] = field(default_factory=lambda: list(_EVERY_NODE))
    resources: Resources = Resources(requests={"cpu": "100m", "memory": "96Mi"}, limits={"memory": "1Gi"})


class Autoscaling(Group, frozen=True, kw_only=True):
    """A HorizontalPodAutoscaler for each waypoint."""

    enabled: bool = True
    max_replicas: Count = 5
    cpu_utilization: Annotated[int, Meta(ge=1, le=100)] = 70
    """Per cent of the request."""


class Waypoints(Group, frozen=True, kw_only=True):
    """How Gateways become waypoints."""

    istio_class: bool = False
    """Run Gateways of class ``istio-waypoint`` too."""
    credentials: bool = False
    """DestinationRules may name certificates and keys in a Secret; for that the operator may read all Secrets."""
    autoscaling: Autoscaling = Autoscaling()
    drain_seconds: Annotated[int, Meta(ge=1, le=3600)] = 25
    resources: Resources = Resources(requests={"cpu": "100m", "memory": "96Mi"}, limits={"memory": "1Gi"})


class Values(Group, frozen=True, kw_only=True):
    """All of them."""

    images: Images = Images()
    mesh: Mesh = Mesh()
    namespace: Namespace = Namespace()
    log: Log = Log()
    operator: Operator = Operator()
    agent: Agent = Agent()
    ztunnel: Ztunnel = Ztunnel()
    waypoints: Waypoints = Waypoints()


def decode(given: Mapping[str, Any], place: str) -> Values:
    """Check values, and fill in the defaults.

    Args:
        given: by the user, defaults left out.
        place: where they were given, for messages.

    Raises:
        ConfigurationError: a key is unknown, or a value not of its kind; the message names it.
    """
    try:
        return msgspec.convert(given, Values)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{place}: {error}{_near(str(error))}") from error


def _near(complaint: str) -> str:
    """What may have been meant by a key that does not exist: keys of its group first, then of all."""
    match = _UNKNOWN.match(complaint)
    if match is None:
        return ""
    paths = list(_paths(Values, ""))
    group = (match["path"] or "$").removeprefix("$").lstrip(".")
    here = [path for path in paths if path.rpartition(".")[0] == group]
    for candidates in (here, paths):
        close = difflib.get_close_matches(match["key"], {path.rpartition(".")[2] for path in candidates}, n=2)
        if close:
            meant = [path for name in close for path in candidates if path.rpartition(".")[2] == name]
            return f"; did you mean {' or '.join(meant[:3])}?"
    return f"; there are {', '.join(path.rpartition('.')[2] for path in here)}" if here else ""


def _paths(group: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    for one in msgspec.structs.fields(group):
        path = f"{prefix}{one.encode_name}"
        yield path
        if isinstance(one.type, type) and issubclass(one.type, Group):
            yield from _paths(one.type, f"{path}.")


def plain(values: Values) -> dict[str, Any]:
    """Values as templates see them."""
    found: dict[str, Any] = without_nulls(msgspec.to_builtins(values))
    return found


def schema() -> dict[str, Any]:
    """The JSON schema that Helm checks values by."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(Values)}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two layers of values: groups are merged, anything else of ``over`` replaces; a null takes a key away."""
    found = dict(base)
    for key, value in over.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(found.get(key), Mapping):
            found[key] = merged(found[key], value)
        else:
            found[key] = value
    return found

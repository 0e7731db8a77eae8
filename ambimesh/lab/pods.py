"""Looking into the pods of a running lab."""

from __future__ import annotations

from ambimesh.lab.kubelet.container_environment import environment
from ambimesh.lab.programs import Place, base_environment
from ambimesh.lab.record import Lab
from mesh.errors import ConfigurationError
from resources.folder_store import FolderStore
from resources.objects import Pod


def split_name(text: str) -> tuple[str, str]:
    """``namespace/pod`` or ``pod`` (of the namespace ``default``).

    Raises:
        ConfigurationError: it is neither.
    """
    namespace, separator, name = text.rpartition("/")
    if not name or (separator and not namespace) or "/" in namespace:
        raise ConfigurationError(f"{text[:64]!r} does not name a pod: write NAMESPACE/POD")
    return namespace or "default", name


def find_pod(lab: Lab, namespace: str, name: str) -> Pod:
    """A pod of the store.

    Raises:
        ObjectMissing: there is none of this name.
    """
    return FolderStore(lab.layout.cluster).get(Pod, namespace, name)


def place_of(lab: Lab, pod: Pod) -> Place:
    """Where a running pod's processes live.

    Raises:
        ConfigurationError: it has no network (yet, or any more).
    """
    namespace, name = pod.metadata.namespace, pod.metadata.name
    if not pod.spec.node_name or not pod.status.addresses:
        reason = pod.status.message or "see ambimesh lab status"
        raise ConfigurationError(f"pod {namespace}/{name} does not run yet: {reason}")
    node = lab.node(pod.spec.node_name)
    netns = node.netns if pod.spec.host_network else lab.layout.pod_netns(namespace, name)
    hosts = node.pods / f"{namespace}_{name}" / "hosts"
    if not netns.exists() or not hosts.exists():
        raise ConfigurationError(f"pod {namespace}/{name} does not run any more; see ambimesh lab status")
    hostname = pod.spec.hostname or name
    return Place(netns=netns, cgroup=lab.pod_cgroup(node, namespace, name), hosts=hosts, hostname=hostname[:63])


def environment_of(pod: Pod) -> dict[str, str]:
    """The environment of a pod's first container."""
    return environment(pod.spec.containers[0], pod, pod.status.addresses, base_environment())

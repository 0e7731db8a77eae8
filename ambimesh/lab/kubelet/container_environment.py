"""What a container runs and with which environment: the parts of a Pod that a runtime turns into an exec. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mesh.errors import ConfigurationError
from resources.objects import Pod
from resources.pod import Container

_REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_][A-Za-z0-9_.-]*)\))")


def environment(container: Container, pod: Pod, addresses: tuple[str, ...], base: Mapping[str, str]) -> dict[str, str]:
    """The container's environment: ``base``, the host name, and its own variables in their order.

    Args:
        addresses: the pod's, which the status in ``pod`` may not hold yet.

    Raises:
        ConfigurationError: a variable comes from something the lab does not have.
    """
    variables = {**base, "HOSTNAME": pod.spec.hostname or pod.metadata.name}
    for entry in container.env:
        if entry.value_from is not None:
            variables[entry.name] = _field(entry.name, entry.value_from, pod, addresses)
        else:
            variables[entry.name] = expand(entry.value, variables)
    if container.env_from:
        raise ConfigurationError(f"container {container.name}: envFrom is not supported in the lab: use env")
    return variables


def command(container: Container, variables: Mapping[str, str]) -> list[str]:
    """What to execute: ``command`` and ``args`` with ``$(NAME)`` replaced.

    Raises:
        ConfigurationError: there is no command, and the lab knows no image it could take one from.
    """
    if not container.command:
        raise ConfigurationError(
            f"container {container.name} has no command: the lab ignores images, so name the program to run"
        )
    return [expand(part, variables) for part in (*container.command, *container.args)]


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)``; an unknown name stays as it is and ``$$`` is one dollar sign (Kubernetes API, Container)."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else variables.get(match[2], match[0])

    return _REFERENCE.sub(replacement, text)


def _field(name: str, source: object, pod: Pod, addresses: tuple[str, ...]) -> str:
    reference = source.get("fieldRef") if isinstance(source, dict) else None
    path = reference.get("fieldPath") if isinstance(reference, dict) else None
    values = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.account,
        "status.podIP": addresses[0] if addresses else "",
        "status.podIPs": ",".join(addresses),
        "status.hostIP": pod.status.host_ip,
    }
    if not isinstance(path, str) or path not in values:
        known = ", ".join(values)
        raise ConfigurationError(f"variable {name}: the lab knows valueFrom.fieldRef of {known}, and nothing else")
    return values[path]

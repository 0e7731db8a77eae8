"""The ``/etc/hosts`` of a pod: Service names in the forms a cluster's DNS would answer. Pure.

There is no DNS in the lab. Each pod sees a hosts file of its own, with the search forms of its own namespace.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Service

CLUSTER_DOMAIN = "cluster.local"


def hosts_text(
    namespace: str,
    hostname: str,
    pod_addresses: Iterable[str],
    services: Iterable[Service],
    slices: Iterable[EndpointSlice],
) -> str:
    """The file for a pod of ``namespace`` that is called ``hostname`` and has these addresses.

    A headless Service's name stands for the addresses of its ready endpoints.
    """
    headless: dict[tuple[str, str], list[str]] = {}
    for entry in slices:
        owner = (entry.metadata.namespace, entry.metadata.labels.get(SERVICE_NAME_LABEL, ""))
        headless.setdefault(owner, []).extend(
            ip for endpoint in entry.endpoints if endpoint.conditions.ready is not False for ip in endpoint.addresses
        )
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
    lines += [f"{address} {hostname}" for address in pod_addresses]
    for service in sorted(services, key=lambda one: (one.metadata.namespace, one.metadata.name)):
        owner = (service.metadata.namespace, service.metadata.name)
        addresses = service.spec.virtual_addresses or tuple(sorted(headless.get(owner, ())))
        names = service_names(service.metadata.name, service.metadata.namespace, namespace)
        lines += [f"{address} {' '.join(names)}" for address in addresses]
    return "\n".join(lines) + "\n"


def service_names(name: str, namespace: str, seen_from: str) -> list[str]:
    """What a Service is called by a pod of the namespace ``seen_from``, longest first."""
    names = [f"{name}.{namespace}.svc.{CLUSTER_DOMAIN}", f"{name}.{namespace}.svc", f"{name}.{namespace}"]
    return [*names, name] if namespace == seen_from else names


def write_hosts(path: Path, text: str) -> None:
    """Bring a hosts file up to date in place: it is bind-mounted, so a new file under its name would not be seen."""
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return
    with open(path, "r+b" if path.exists() else "w+b", buffering=0) as file:
        file.write(content)
        file.truncate(len(content))

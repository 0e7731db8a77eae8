"""``ambimesh version``."""

from __future__ import annotations

import platform
from importlib.metadata import version as installed
from typing import Annotated, Any

import typer

from ambimesh import output
from ambimesh.cluster.client_driver import Cluster
from ambimesh.commands.options import Context, MeshNamespace, Output
from ambimesh.install.installing_driver import read_record
from ambimesh.output import OutputFormat, say
from ebpf.layout import ABI_VERSION

_PART_OF = "app.kubernetes.io/part-of=ambimesh"
_COMPONENT = "app.kubernetes.io/component"


def version(
    cluster: Annotated[bool, typer.Option("--cluster", help="Of the current cluster, too.")] = False,
    namespace: MeshNamespace = "ambimesh-system",
    context: Context = None,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Show the versions of the program, of its kernel interface, of what it runs on, and of a cluster's mesh."""
    facts: dict[str, Any] = dict(collect())
    if cluster or context is not None:
        facts |= of_cluster(Cluster(context), namespace)
    if out is not OutputFormat.SHORT:
        output.print_value(facts, out)
        return
    for name, value in facts.items():
        say(f"{name}: {value}")


def show_version(asked: bool) -> None:
    """The program's version alone, for the option ``--version``."""
    if asked:
        say(f"ambimesh {installed('ambimesh')}")
        raise typer.Exit


def collect() -> dict[str, str]:
    """The versions by name."""
    return {
        "ambimesh": installed("ambimesh"),
        "eBPF interface": f"v{ABI_VERSION}",
        "Python": platform.python_version(),
        "kernel": platform.release(),
    }


def of_cluster(cluster: Cluster, namespace: str) -> dict[str, str]:
    """The versions of a cluster and of the mesh in it. Raises as ``Cluster.request``."""
    record = read_record(cluster, namespace)
    running: dict[str, set[str]] = {}
    for pod in cluster.all_of("v1", "Pod", namespace, labels=_PART_OF):
        component = pod["metadata"]["labels"].get(_COMPONENT, "others")
        tags = {one["image"].rpartition(":")[2] for one in pod["spec"]["containers"]}
        running.setdefault(component, set()).update(tags)
    return {
        "Kubernetes": str(cluster.version().get("gitVersion", "")),
        "installation": "none" if record is None else record.version,
        **{name: ", ".join(sorted(tags)) for name, tags in sorted(running.items())},
    }

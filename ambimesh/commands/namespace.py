"""``ambimesh namespace``: which namespaces are in the mesh."""

from __future__ import annotations

from typing import Annotated

import typer

from ambimesh.cluster.object_store import ObjectStore
from ambimesh.commands.options import Context, LabName, Output
from ambimesh.commands.target import store_of
from ambimesh.lab.layout import DEFAULT_LAB
from ambimesh.output import OutputFormat, deeds, print_table, print_value, remark, say
from mesh.errors import ConfigurationError, ObjectMissing
from resources.objects import Namespace, Pod

app = typer.Typer(no_args_is_help=True, help="Namespaces in the mesh.")

MODE_LABEL = "istio.io/dataplane-mode"
USE_LABEL = "istio.io/use-waypoint"
REDIRECTION = "ambient.istio.io/redirection"
AMBIENT = "ambient"
_PROTECTED = ("kube-system", "kube-public", "kube-node-lease")

Names = Annotated[list[str], typer.Argument(help="Of the namespaces.")]


@app.command()
def enroll(
    names: Names, context: Context = None, lab: LabName = DEFAULT_LAB, out: Output = OutputFormat.SHORT
) -> None:
    """Take namespaces into the mesh: new connections of their pods, running ones included, go through it."""
    store = store_of(lab, context)
    with deeds(out) as told:
        for name in names:
            if name in _PROTECTED:
                raise ConfigurationError(f"namespace {name} is Kubernetes' own: the mesh stands on it")
            space = _require(store, name)
            if space.metadata.labels.get("istio-injection") == "enabled" or "istio.io/rev" in space.metadata.labels:
                remark("warning", "yellow", f"namespace {name} has sidecars injected: pods with one are not enrolled")
            store.patch_metadata(Namespace, "", name, labels={MODE_LABEL: AMBIENT})
            told.done(f"✅ namespace {name} is in the mesh", namespace=name, done="enrolled")


@app.command()
def unenroll(
    names: Names, context: Context = None, lab: LabName = DEFAULT_LAB, out: Output = OutputFormat.SHORT
) -> None:
    """Take namespaces out of the mesh: new connections of their pods are plain; connections that stand go on."""
    store = store_of(lab, context)
    with deeds(out) as told:
        for name in names:
            space = _require(store, name)
            store.patch_metadata(Namespace, "", name, labels={MODE_LABEL: None})
            told.done(f"✅ namespace {name} is out of the mesh", namespace=name, done="unenrolled")
            if space.metadata.labels.get(USE_LABEL):
                text = f"namespace {name} is still labelled {USE_LABEL}: outside of the mesh it means nothing"
                remark("notice", "cyan", text)


@app.command(name="list")
def list_(
    everything: Annotated[bool, typer.Option("--all", "-A", help="Those outside of the mesh, too.")] = False,
    context: Context = None,
    lab: LabName = DEFAULT_LAB,
    out: Output = OutputFormat.SHORT,
) -> None:
    """List the namespaces in the mesh, with how many of their pods are captured."""
    store = store_of(lab, context)
    pods: dict[str, list[Pod]] = {}
    for pod in store.of_kind(Pod):
        if not pod.spec.host_network and not (pod.status is not None and pod.status.ended):
            pods.setdefault(pod.metadata.namespace, []).append(pod)
    found = []
    for space in sorted(store.of_kind(Namespace), key=lambda each: each.metadata.name):
        name, labels = space.metadata.name, space.metadata.labels
        if labels.get(MODE_LABEL) != AMBIENT and not everything:
            continue
        here = pods.get(name, [])
        captured = sum(pod.metadata.annotations.get(REDIRECTION) == "enabled" for pod in here)
        found.append(
            {
                "namespace": name,
                "mode": labels.get(MODE_LABEL, ""),
                "waypoint": labels.get(USE_LABEL, ""),
                "captured": captured,
                "pods": len(here),
            }
        )
    if out is not OutputFormat.SHORT:
        print_value(found, out)
    elif not found:
        say("No namespaces are in the mesh.")
    else:
        rows = [
            [
                str(one["namespace"]),
                str(one["mode"] or "None"),
                str(one["waypoint"] or "None"),
                f"{one['captured']}/{one['pods']}",
            ]
            for one in found
        ]
        print_table(["NAMESPACE", "MODE", "WAYPOINT", "CAPTURED PODS"], rows)


def _require(store: ObjectStore, name: str) -> Namespace:
    try:
        return store.get(Namespace, "", name)
    except ObjectMissing as error:
        raise ConfigurationError(f"there is no namespace {name}") from error

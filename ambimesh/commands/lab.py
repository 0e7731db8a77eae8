"""``ambimesh lab``: a cluster in network namespaces on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import trio
import typer

from ambimesh import output
from ambimesh.commands import lab_processes, lab_status
from ambimesh.commands.options import Files, LabName, Output, Workers, workers_wish
from ambimesh.lab import findings, manifests, pods, readiness, record
from ambimesh.lab.bring_up import Wish, bring_up
from ambimesh.lab.layout import DEFAULT_LAB, LabLayout
from ambimesh.lab.programs import run_in_foreground
from ambimesh.lab.record import DEFAULT_CERTIFICATE_SECONDS, Lab, LabRecord, ProcessSettings
from ambimesh.lab.take_down import take_down
from ambimesh.output import OutputFormat, remark, say
from mesh import config
from mesh.errors import ConnectFailed, ConnectionLost, InvalidMessage
from resources.folder_store import FolderStore, key_of
from resources.objects import ObjectKey

app = typer.Typer(no_args_is_help=True, help="A cluster in network namespaces on this machine, without Kubernetes.")

lab_processes.register(app)

_POD_SECONDS = 60.0
SHIPPED_MANIFESTS = Path(__file__).parent.parent / "manifests" / "demo"


@app.command()
def up(
    folder: Annotated[Path | None, typer.Argument(help="Manifests to apply; the shipped ones when left out.")] = None,
    nodes: Annotated[int, typer.Option(help="How many nodes.")] = 2,
    empty: Annotated[bool, typer.Option("--empty", help="Apply no manifests.")] = False,
    mesh: Annotated[bool, typer.Option(help="Run the mesh's processes in it.")] = True,
    certificate_lifetime: Annotated[
        int, typer.Option(metavar="SECONDS", help="What ztunnels ask the operator for.")
    ] = DEFAULT_CERTIFICATE_SECONDS,
    workers: Workers = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="More configuration: a YAML file, sections operator, ztunnel, waypoint."),
    ] = None,
    lab: LabName = DEFAULT_LAB,
) -> None:
    """Bring a lab up."""
    paths = [] if empty else [folder or SHIPPED_MANIFESTS]
    manifests.read(paths)  # a mistyped folder is told before anything is made
    wish = Wish(
        layout=LabLayout.named(lab),
        nodes=nodes,
        mesh=mesh,
        certificate_lifetime_seconds=certificate_lifetime,
        workers=workers_wish(workers),
        settings=ProcessSettings() if settings is None else config.load(settings, ProcessSettings),
    )
    trio.run(_up, wish, paths)


async def _up(wish: Wish, paths: list[Path]) -> None:
    with output.steps() as step:
        lab = await bring_up(wish, step)
        report = manifests.apply(FolderStore(lab.layout.cluster), paths)
        step("waiting for pods")
        unready = await readiness.wait_for_pods(lab, _POD_SECONDS)
    for pod, reason in unready:
        remark("not ready", "yellow", f"{pod}: {reason}")
    say(f"lab {lab.layout.name} is up; see: ambimesh lab status")
    report.findings = await _findings(lab, [key for key, _ in report.done])
    _finish(report, quiet=True)


@app.command()
def down(lab: LabName = DEFAULT_LAB) -> None:
    """Remove a lab: processes, namespaces, links, cgroups, mounts and files."""
    layout = LabLayout.named(lab)
    found = record.find(layout)
    if found is None and layout.root.exists():
        # A lab whose bringing up was killed before it could note itself.
        found = Lab(layout, LabRecord(name=lab, nodes=0, mesh=False, cgroup=str(layout.root / "no-cgroup")))
    if found is None:
        say(f"there is no lab {lab}")
        return
    trio.run(_down, found)
    say(f"lab {lab} is gone")


async def _down(lab: Lab) -> None:
    with output.steps() as step:
        await take_down(lab, step)


@app.command()
def status(out: Output = OutputFormat.SHORT, lab: LabName = DEFAULT_LAB) -> None:
    """Show nodes, processes, pods, Services and routes."""
    lab_status.show(record.require(LabLayout.named(lab)), out)


@app.command()
def apply(
    filename: Files,
    wait: Annotated[float, typer.Option(help="Seconds to wait until all pods are ready.")] = 0.0,
    lab: LabName = DEFAULT_LAB,
) -> None:
    """Create or update the objects of manifests."""
    found = record.require(LabLayout.named(lab))
    report = manifests.apply(FolderStore(found.layout.cluster), filename)
    report.findings = trio.run(_findings, found, [key for key, _ in report.done])
    if wait > 0:
        for pod, reason in trio.run(readiness.wait_for_pods, found, wait):
            report.problems.append(f"pod {pod} is not ready after {wait:g} s: {reason}")
    _finish(report)


@app.command()
def delete(filename: Files, lab: LabName = DEFAULT_LAB) -> None:
    """Delete the objects of manifests; a namespace goes with all that is in it."""
    found = record.require(LabLayout.named(lab))
    _finish(manifests.delete(FolderStore(found.layout.cluster), filename))


@app.command()
def label(
    kind: Annotated[str, typer.Argument(help="namespace, pod, service, ...")],
    name: Annotated[str, typer.Argument(metavar="[NAMESPACE/]NAME")],
    labels: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...")],
    lab: LabName = DEFAULT_LAB,
) -> None:
    """Set labels of an object, or take them away."""
    _patch(lab, kind, name, labels, "label")


@app.command()
def annotate(
    kind: Annotated[str, typer.Argument(help="namespace, pod, service, ...")],
    name: Annotated[str, typer.Argument(metavar="[NAMESPACE/]NAME")],
    annotations: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-...")],
    lab: LabName = DEFAULT_LAB,
) -> None:
    """Set annotations of an object, or take them away."""
    _patch(lab, kind, name, annotations, "annotation")


def _patch(lab: str, kind: str, name: str, texts: list[str], what: str) -> None:
    found = record.require(LabLayout.named(lab))
    changes: dict[str, str | None] = {}
    for text in texts:
        changes |= manifests.patch(text, what)
    namespace, _, bare = name.rpartition("/")
    type_, space, bare = key_of(kind, namespace, bare)
    store = FolderStore(found.layout.cluster)
    if what == "label":
        store.patch_metadata(type_, space, bare, labels=changes)
    else:
        store.patch_metadata(type_, space, bare, annotations=changes)
    say(f"{type_.__name__} {name}: {what}s set")
    _warn(trio.run(_findings, found, [ObjectKey(type_.__name__, space, bare)]))


@app.command(context_settings={"ignore_unknown_options": True})
def exec(  # noqa: A001 -- the command's name
    pod: Annotated[str, typer.Argument(metavar="NAMESPACE/POD")],
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...")],
    lab: LabName = DEFAULT_LAB,
) -> None:
    """Run a command in a pod; standard input is passed on and its exit status is kept."""
    found = record.require(LabLayout.named(lab))
    target = pods.find_pod(found, *pods.split_name(pod))
    raise typer.Exit(run_in_foreground(command, pods.place_of(found, target), pods.environment_of(target)))


async def _findings(lab: Lab, keys: list[ObjectKey]) -> list[str]:
    """What of these objects has no effect; that this is not known is said as well, since nobody would look."""
    try:
        return [str(finding) for finding in await findings.findings_of(lab, keys)]
    except (ConnectFailed, ConnectionLost, InvalidMessage) as error:
        return [f"whether all of this has an effect is not known: {error}; see: ambimesh lab logs operator"]


def _warn(texts: list[str]) -> None:
    for text in texts:
        remark("warning", "yellow", text)


def _finish(report: manifests.Report, quiet: bool = False) -> None:
    """Print what became of manifests; exit 1 when something was wrong with them."""
    for key, what in report.done:
        if not quiet:
            say(f"{key} {what}")
    _warn(report.findings)
    for notice in report.notices:
        remark("notice", "yellow", notice)
    for problem in report.problems:
        remark("error", "red", problem)
    if report.problems:
        raise typer.Exit(1)

"""``ambimesh install``, ``upgrade`` and ``uninstall``: the mesh in a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ambimesh.chart.loading_driver import Chart, load_chart, render
from ambimesh.chart.values import merged
from ambimesh.cluster.client_driver import Cluster
from ambimesh.commands.options import Context, MeshNamespace, Output
from ambimesh.install import checking_driver, set_values
from ambimesh.install.installing_driver import Reporter, check_all, read_record
from ambimesh.install.installing_driver import install as bring
from ambimesh.install.planning import Key, key_of
from ambimesh.install.record import MANAGER, Record
from ambimesh.install.removing_driver import clean_nodes, remove
from ambimesh.install.rollout import Problem
from ambimesh.output import OutputFormat, print_value, progress, remark, say
from mesh.errors import ConfigurationError

_GATEWAY_CLASS = ("gateway.networking.k8s.io/v1", "GatewayClass")
_SECONDS = 300.0

Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A value of the chart. Repeatable.")]
Texts = Annotated[
    list[str] | None, typer.Option("--set-string", metavar="KEY=VALUE", help="As --set; the value is text.")
]
ValueFiles = Annotated[
    list[Path] | None, typer.Option("--values", "-f", help="A YAML file of values; later ones win. Repeatable.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Have the cluster check everything, print it, change nothing.")]
SkipChecks = Annotated[bool, typer.Option("--skip-checks", help="Do not look at the cluster first.")]
Timeout = Annotated[float, typer.Option(help="Seconds to wait for each part.")]


def install(
    sets: Sets = None,
    texts: Texts = None,
    files: ValueFiles = None,
    dry_run: DryRun = False,
    skip_checks: SkipChecks = False,
    timeout: Timeout = _SECONDS,
    namespace: MeshNamespace = "ambimesh-system",
    context: Context = None,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Install the mesh into a cluster, or bring an installation to these values."""
    chart, given = load_chart(), given_values(files or [], sets or [], texts or [])
    _bring(Cluster(context), chart, given, namespace, timeout, out, dry_run=dry_run, look=not skip_checks)


def upgrade(
    sets: Sets = None,
    texts: Texts = None,
    files: ValueFiles = None,
    reset_values: Annotated[
        bool, typer.Option("--reset-values", help="Forget the values of the installation.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="With the values of the last upgrade that came up.")] = False,
    dry_run: DryRun = False,
    skip_checks: SkipChecks = False,
    timeout: Timeout = _SECONDS,
    namespace: MeshNamespace = "ambimesh-system",
    context: Context = None,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Bring an installation to this version: operator, agents, ztunnels, one after the other; values are kept."""
    cluster, chart = Cluster(context), load_chart()
    record = read_record(cluster, namespace)
    if record is None:
        raise ConfigurationError(f"there is no installation in namespace {namespace}; remedy: ambimesh install")
    kept = _values_to_undo(record, chart.version) if undo else {} if reset_values else record.values
    given = merged(kept, given_values(files or [], sets or [], texts or []))
    remark("notice", "cyan", f"from version {record.version} to {chart.version}")
    _bring(cluster, chart, given, namespace, timeout, out, dry_run=dry_run, look=not skip_checks)


def uninstall(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    skip_nodes: Annotated[
        bool, typer.Option("--skip-nodes", help="Delete everything although nodes may not be clean.")
    ] = False,
    timeout: Timeout = _SECONDS,
    namespace: MeshNamespace = "ambimesh-system",
    context: Context = None,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Take the mesh out: traffic becomes plain again, and nothing of the mesh stays on nodes or in the cluster."""
    cluster, chart = Cluster(context), load_chart()
    record = read_record(cluster, namespace)
    if record is None:
        raise ConfigurationError(
            f"there is no installation in namespace {namespace}; remedy: --mesh-namespace, or helm uninstall if Helm "
            "has installed it"
        )
    if not yes:
        question = f"Take the mesh out of {cluster.server}? Traffic of enrolled pods becomes plain."
        typer.confirm(question, abort=True, err=True)
    values = merged(record.values, {"agent": {"action": "uninstall"}})
    objects = render(chart, values, namespace=namespace, api_versions=_api_versions(cluster))
    agents = [value for value in objects if value["kind"] == "DaemonSet" and "agent" in value["metadata"]["name"]]
    there = any(_is_there(cluster, key_of(value)) for value in agents)
    with _reporter() as report:
        if there and not skip_nodes:
            try:
                clean_nodes(cluster, objects, timeout, report)
            except Exception as error:
                error.add_note("nothing else was deleted; remedy: see to it and try again, or --skip-nodes")
                raise
        remove(cluster, namespace, record.objects, timeout, report)
    if out is OutputFormat.SHORT:
        say("✅ the mesh is uninstalled")
    else:
        removed = [str(key) for key in record.objects]
        print_value({"version": record.version, "namespace": namespace, "removed": removed}, out)


def _bring(
    cluster: Cluster,
    chart: Chart,
    given: dict[str, Any],
    namespace: str,
    timeout: float,
    out: OutputFormat,
    *,
    dry_run: bool,
    look: bool,
) -> None:
    values = merged({"namespace": {"create": _is_ours_to_make(cluster, namespace)}}, given)
    objects = render(chart, values, namespace=namespace, api_versions=_api_versions(cluster))
    if dry_run:
        check_all(cluster, objects)
        if out is OutputFormat.JSON:
            print_value(objects, out)
        else:
            say(yaml.safe_dump_all(objects, sort_keys=False).rstrip("\n"))
        return
    if look:
        _refuse_unfit(cluster, namespace)
    with _reporter() as report:
        bring(cluster, namespace, objects, version=chart.version, values=values, seconds=timeout, report=report)
    if out is OutputFormat.SHORT:
        say(f"✅ ambimesh {chart.version} is installed in namespace {namespace}")
    else:
        names = [str(key_of(value)) for value in objects]
        print_value({"version": chart.version, "namespace": namespace, "objects": names}, out)


def given_values(files: list[Path], sets: list[str], texts: list[str]) -> dict[str, Any]:
    """What the user gives, the command line over files.

    Raises:
        ConfigurationError: a file cannot be read, or an assignment.
    """
    values: dict[str, Any] = {}
    for file in files:
        try:
            found = yaml.safe_load(file.read_text())
        except OSError as error:
            raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file}: not valid YAML: {error}") from error
        if found is not None and not isinstance(found, dict):
            raise ConfigurationError(f"{file}: values are a mapping")
        values = merged(values, found or {})
    return merged(merged(values, set_values.parse(sets)), set_values.parse(texts, as_text=True))


def _refuse_unfit(cluster: Cluster, namespace: str) -> None:
    failed = [
        finding
        for finding in checking_driver.failed(checking_driver.check_cluster(cluster, namespace, installation=False))
        if finding.name != "NetworkPolicies"  # they concern the pods they select, not the mesh
    ]
    if failed:
        error = ConfigurationError("the cluster is not fit for the mesh; nothing was changed (--skip-checks goes on)")
        for finding in failed:
            remedy = f"; remedy: {finding.remedy}" if finding.remedy else ""
            error.add_note(f"{finding.name}: {finding.detail}{remedy}")
        raise error


def _values_to_undo(record: Record, version: str) -> dict[str, Any]:
    worked = record.worked
    if worked is None:
        raise ConfigurationError("there is nothing to undo: the last installation or upgrade came up, or none ever has")
    if worked.version != version:
        raise ConfigurationError(
            f"version {worked.version} worked last, and this command brings {version}; remedy: the command of "
            f"version {worked.version}"
        )
    return worked.values


def _is_ours_to_make(cluster: Cluster, namespace: str) -> bool:
    """Whether the namespace is made, and later deleted, by us: it is not there, or we have made it."""
    found = cluster.find("v1", "Namespace", namespace)
    return found is None or found["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == MANAGER


def _api_versions(cluster: Cluster) -> list[str]:
    version, kind = _GATEWAY_CLASS
    return [f"{version}/{kind}"] if cluster.has(version, kind) else []


def _is_there(cluster: Cluster, key: Key) -> bool:
    return cluster.find(key.api_version, key.kind, key.name, key.namespace) is not None


@contextmanager
def _reporter() -> Iterator[Reporter]:
    def problem(found: Problem) -> None:
        remark("waiting", "yellow", str(found))

    with progress() as shown:
        yield Reporter(step=shown.step, detail=shown.detail, problem=problem)

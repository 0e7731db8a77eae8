"""Applying an installation phase by phase, and waiting for each; taking one out.

Nothing is changed unless everything would be accepted: all objects go through the API server's dry run first, with its
validation, its admission and the user's rights. Then each phase is applied and waited for; while it is waited for, what
keeps pods from coming up is told once as it is found, and at the deadline all of it, with the last lines of what
crashed. A deadline leaves what was applied in place, and the record says that the installation is not complete: the
next attempt goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ambimesh.cluster.client_driver import Cluster, Json
from ambimesh.cluster.readiness import not_ready_because
from ambimesh.install import record as records
from ambimesh.install.neighbours import gateway_class
from ambimesh.install.planning import Key, Phase, in_namespace, key_of, obsolete, phases, removal
from ambimesh.install.record import Record
from ambimesh.install.rollout import Problem, Rollout, progress_of, selector_of
from mesh.errors import ConfigurationError, EnvironmentLacks, MeshError, ObjectMissing

_POLL_SECONDS = 1.0
_STARTING_SECONDS = 20.0
"""How long probes of a pod may fail before that is told: until it listens they do."""
_LOG_LINES = 10
_STAND_IN_NAMESPACE = "default"
"""Where objects are checked whose own namespace is yet to be made."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Where progress goes."""

    step: Callable[[str], None]
    """A step begins, and so the one before it has ended."""
    detail: Callable[[str], None]
    """How far the step is."""
    problem: Callable[[Problem], None]
    """Something keeps it; told once each."""


def read_record(cluster: Cluster, namespace: str) -> Record | None:
    """What is remembered of an installation in a namespace.

    Raises:
        ConfigurationError: it cannot be read.
        MeshError: as ``Cluster.request``.
    """
    found = cluster.find("v1", "ConfigMap", records.NAME, namespace)
    return None if found is None else records.from_object(found)


def refuse_foreign(cluster: Cluster, objects: Iterable[Json], namespace: str) -> None:
    """See that no other installation has objects of these names.

    Raises:
        ConfigurationError: Helm has made them, or an installation in another namespace, or another controller.
        MeshError: as ``Cluster.request``.
    """
    for value in objects:
        if value["kind"] == "GatewayClass":
            _refuse_foreign_class(cluster, value)
        if value["kind"] != "ClusterRoleBinding":
            continue
        found = cluster.find(value["apiVersion"], value["kind"], value["metadata"]["name"])
        if found is None:
            continue
        manager = found["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by", "")
        if manager == "Helm":
            raise ConfigurationError("Helm has installed the mesh here; remedy: helm upgrade, helm uninstall")
        places = {subject.get("namespace") for subject in found.get("subjects") or ()}
        if places - {namespace}:
            raise ConfigurationError(
                f"the mesh is installed in namespace {', '.join(sorted(map(str, places)))} already, and a cluster "
                "takes one; remedy: --mesh-namespace with that namespace, or uninstall it first"
            )


def _refuse_foreign_class(cluster: Cluster, value: Json) -> None:
    found = cluster.find(value["apiVersion"], value["kind"], value["metadata"]["name"])
    finding = gateway_class(found, value["spec"]["controllerName"])
    if finding is not None:
        raise ConfigurationError(f"GatewayClass {finding.detail}; remedy: {finding.remedy}")


def check_all(cluster: Cluster, objects: Sequence[Json]) -> None:
    """Have the API server check every object, without changing anything.

    Raises:
        ConfigurationError: it refuses some; the message names all of them.
        MeshError: as ``Cluster.request``.
    """
    refused: list[str] = []
    known: dict[str, bool] = {}
    for value in objects:
        namespace = value["metadata"].get("namespace", "")
        if namespace and namespace not in known:
            known[namespace] = cluster.find("v1", "Namespace", namespace) is not None
        candidate = value if known.get(namespace, True) else in_namespace(value, _STAND_IN_NAMESPACE)
        try:
            cluster.apply(candidate, dry_run=True)
        except (ConfigurationError, ObjectMissing) as error:
            refused.append(f"{key_of(value)}: {error}")
    if refused:
        raise ConfigurationError("nothing was changed, since not everything would be accepted: " + "; ".join(refused))


def install(
    cluster: Cluster,
    namespace: str,
    objects: Sequence[Json],
    *,
    version: str,
    values: dict[str, Any],
    seconds: float,
    report: Reporter,
) -> None:
    """Bring the cluster to these objects, from nothing or from an earlier installation.

    Args:
        cluster: the cluster.
        namespace: the mesh's.
        objects: all of the installation.
        version: the chart's.
        values: given by the user.
        seconds: to wait for each phase.
        report: where progress goes.

    Raises:
        ConfigurationError: the API server refuses an object.
        EnvironmentLacks: a phase did not come up in time; the message says what kept it.
        MeshError: as ``Cluster.request``.
    """
    report.step("checking all objects with the API server")
    refuse_foreign(cluster, objects, namespace)
    check_all(cluster, objects)
    before = read_record(cluster, namespace)
    keys = [key_of(value) for value in objects]
    leftovers = obsolete(before.objects, objects) if before is not None else []
    partial = records.make(version, values, [*keys, *leftovers], complete=False, before=before)
    try:
        _apply_phases(cluster, namespace, objects, seconds, report, partial)
    except EnvironmentLacks as error:
        worked = records.last_working(before)
        if worked is not None:
            error.add_note(
                "what was not replaced goes on as before; remedy: upgrade again with other values, or ambimesh upgrade "
                f"--undo, with the command of version {worked.version}, for the values that worked last"
            )
        raise
    for key in leftovers:
        report.step(f"removing {key}, which this version does not have")
        cluster.delete(key.api_version, key.kind, key.name, key.namespace)
    cluster.apply(records.to_object(records.make(version, values, keys, complete=True), namespace))


def _apply_phases(
    cluster: Cluster, namespace: str, objects: Sequence[Json], seconds: float, report: Reporter, partial: Record
) -> None:
    recorded = False
    for phase in phases(objects):
        report.step(f"applying {phase.name}")
        for value in phase.objects:
            cluster.apply(value)
            if not recorded and cluster.find("v1", "Namespace", namespace) is not None:
                cluster.apply(records.to_object(partial, namespace))
                recorded = True
        if phase.workloads:
            report.step(f"waiting for {phase.name}")
            wait_for(cluster, phase, seconds, report)


def wait_for(cluster: Cluster, phase: Phase, seconds: float, report: Reporter) -> None:
    """Wait until a phase's workloads are ready.

    Raises:
        EnvironmentLacks: they are not in time.
        MeshError: as ``Cluster.request``.
    """
    namespaces = {value["metadata"]["namespace"] for value in phase.workloads}
    old = {_version_of(event) for namespace in namespaces for event in cluster.all_of("v1", "Event", namespace)}
    deadline = time.monotonic() + seconds
    told: set[Problem] = set()
    first: dict[tuple[str, str], float] = {}
    while True:
        states = [(value, _look(cluster, value, old)) for value in phase.workloads]
        if all(state.done for _, state in states):
            return
        report.detail(", ".join(f"{value['metadata']['name']} {state.ready}/{state.wanted}" for value, state in states))
        problems = sorted({problem for _, state in states for problem in state.problems})
        for problem in problems:
            since = first.setdefault((problem.kind, problem.place), time.monotonic())
            starting = problem.kind == "probe" and time.monotonic() - since < _STARTING_SECONDS
            if problem not in told and not starting:
                told.add(problem)
                report.problem(problem)
        if time.monotonic() > deadline:
            raise _late(cluster, states, problems, seconds)
        time.sleep(_POLL_SECONDS)


def _look(cluster: Cluster, value: Json, old: set[tuple[str, str]]) -> Rollout:
    metadata = value["metadata"]
    namespace = metadata["namespace"]
    found = cluster.get(value["apiVersion"], value["kind"], metadata["name"], namespace)
    state = progress_of(found, (), ())
    if state.done:
        return state
    pods = cluster.all_of("v1", "Pod", namespace, labels=selector_of(found))
    events = [event for event in cluster.all_of("v1", "Event", namespace) if _version_of(event) not in old]
    return progress_of(found, pods, events)


def _version_of(event: Json) -> tuple[str, str]:
    """An event as of now: one that happens again has another version."""
    return event["metadata"].get("uid", ""), event["metadata"].get("resourceVersion", "")


def _late(
    cluster: Cluster, states: list[tuple[Json, Rollout]], problems: Sequence[Problem], seconds: float
) -> EnvironmentLacks:
    missing = [
        f"{value['kind']} {value['metadata']['name']} has {state.ready} of {state.wanted} pods ready"
        for value, state in states
        if not state.done
    ]
    error = EnvironmentLacks(f"not ready after {seconds:g} s: {', '.join(missing)}")
    namespace = states[0][0]["metadata"]["namespace"]
    for problem in problems:
        error.add_note(str(problem))
        said = not_ready_because(cluster, pod) if (pod := _probed(cluster, namespace, problem)) is not None else ""
        if said:
            error.add_note(f"{problem.pod} says: {said}")
    for problem in _with_logs(problems):
        text = last_lines(cluster, namespace, problem)
        if text:
            error.add_note(f"the last lines of {problem.container} in {problem.pod}:\n{text}")
    if not problems:
        error.add_note("nothing tells why; remedy: wait longer (--timeout), or look at the events of the namespace")
    return error


def _probed(cluster: Cluster, namespace: str, problem: Problem) -> Json | None:
    """The pod of a problem, if it runs and says that it is not ready."""
    return cluster.find("v1", "Pod", problem.pod, namespace) if problem.kind == "probe" else None


def _with_logs(problems: Iterable[Problem]) -> Iterable[Problem]:
    """One of each container: pods of one kind that crash say the same."""
    seen: set[str] = set()
    for problem in problems:
        if problem.pod and problem.container not in seen:
            seen.add(problem.container)
            yield problem


def last_lines(cluster: Cluster, namespace: str, problem: Problem) -> str:
    """What a container said before it ended; empty if that is not to be had."""
    for previous in (True, False):
        try:
            text = cluster.log(namespace, problem.pod, problem.container, lines=_LOG_LINES, previous=previous)
        except MeshError:
            continue
        if text.strip():
            return text.rstrip()
    return ""


def delete_all(
    cluster: Cluster, keys: Iterable[Key], report: Reporter, seconds: float, *, owned_first: bool = False
) -> None:
    """Delete objects, and wait until they are gone; what they own is gone before them, if that is asked for.

    Raises:
        EnvironmentLacks: some are still there in the end.
        MeshError: as ``Cluster.request``.
    """
    ordered = removal(keys)
    for key in ordered:
        report.detail(str(key))
        cluster.delete(key.api_version, key.kind, key.name, key.namespace, owned_first=owned_first)
    deadline = time.monotonic() + seconds
    while True:
        there = [key for key in ordered if _is_there(cluster, key)]
        if not there:
            return
        report.detail(f"waiting for {', '.join(map(str, there[:3]))} to go")
        if time.monotonic() > deadline:
            raise EnvironmentLacks(
                f"still there after {seconds:g} s: {', '.join(map(str, there))}; remedy: look at their finalizers"
            )
        time.sleep(_POLL_SECONDS)


def _is_there(cluster: Cluster, key: Key) -> bool:
    return cluster.find(key.api_version, key.kind, key.name, key.namespace) is not None

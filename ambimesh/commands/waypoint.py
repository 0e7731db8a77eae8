"""``ambimesh waypoint``: Gateways that are waypoints, made, listed and removed. Flags and texts are istioctl's."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any

import typer

from ambimesh.cluster.object_store import ClusterStore, ObjectStore
from ambimesh.commands import route_status
from ambimesh.commands.options import Context, LabName, Output
from ambimesh.commands.target import store_of
from ambimesh.lab.layout import DEFAULT_LAB
from ambimesh.output import OutputFormat, deeds, print_table, print_value, remark, say
from controlplane.reconcile.waypoints import GATEWAY_NAME_LABEL, REPLICAS_ANNOTATION, RESTARTED_ANNOTATION
from controlplane.translate.status import CONTROLLER_NAME
from mesh.clock import utc_now
from mesh.errors import ConfigurationError, ObjectMissing
from resources.base import ObjectMeta
from resources.encode import to_document, to_yaml
from resources.gateway import GatewayClassSpec, GatewaySpec, Listener
from resources.objects import Gateway, GatewayClass, Namespace, Pod

app = typer.Typer(no_args_is_help=True, help="Waypoints: layer 7 for a namespace or service.")

WAYPOINT_CLASS = "ambimesh-waypoint"
WAYPOINT_CLASSES = (WAYPOINT_CLASS, "istio-waypoint")
"""The second one is run where the installation says so (``waypoints.istioClass``)."""
TRAFFIC_LABEL, REVISION_LABEL = "istio.io/waypoint-for", "istio.io/rev"
USE_LABEL, USE_NAMESPACE_LABEL = "istio.io/use-waypoint", "istio.io/use-waypoint-namespace"
MODE_LABEL = "istio.io/dataplane-mode"
HBONE_PORT = 15008
RESERVED_NAME = "none"
"""The value of the label by which an object says that it wants no waypoint."""
_DEFAULT_WAIT_SECONDS, _POLL_SECONDS = 90.0, 0.2


class Traffic(StrEnum):
    """What a waypoint is for."""

    SERVICE = "service"
    WORKLOAD = "workload"
    ALL = "all"
    NONE = "none"


Name = Annotated[str, typer.Option("--name", help="Of the waypoint.")]
InNamespace = Annotated[str, typer.Option("--namespace", "-n", help="Where the waypoint is.")]
Everywhere = Annotated[bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")]
For = Annotated[Traffic | None, typer.Option("--for", help="What traffic it serves; services' when left out.")]
Revision = Annotated[str | None, typer.Option("--revision", "-r", help="Of the control plane that is to run it.")]
Replicas = Annotated[int | None, typer.Option(min=1, help="How many replicas.")]


@app.command()
def generate(
    name: Name = "waypoint",
    namespace: InNamespace = "default",
    traffic: For = None,
    replicas: Replicas = None,
    revision: Revision = None,
    context: Context = None,
    out: Output = OutputFormat.YAML,
) -> None:
    """Print a waypoint's Gateway manifest; of no cluster in particular."""
    gateway = make_gateway(name, namespace, traffic, replicas, revision)
    if out is OutputFormat.JSON:
        print_value(to_document(gateway), out)
    else:
        say(to_yaml(gateway).rstrip("\n"))


@app.command()
def apply(
    name: Name = "waypoint",
    namespace: InNamespace = "default",
    traffic: For = None,
    replicas: Replicas = None,
    revision: Revision = None,
    enroll_namespace: Annotated[
        bool, typer.Option("--enroll-namespace", help=f"Label the namespace {USE_LABEL} with this waypoint.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option(help="Enrol the namespace although it uses another waypoint already.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when the waypoint is ready.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for.")] = _DEFAULT_WAIT_SECONDS,
    context: Context = None,
    lab: LabName = DEFAULT_LAB,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Make a waypoint, or change it."""
    store = store_of(lab, context)
    space = _namespace(store, namespace)
    used = space.metadata.labels.get(USE_LABEL)
    if enroll_namespace and used not in (None, name) and not overwrite:
        raise ConfigurationError(
            f"namespace {namespace} uses waypoint {used} already; remedy: --overwrite, or leave out --enroll-namespace"
        )
    where = {"namespace": namespace, "waypoint": name}
    with deeds(out) as told:
        _ensure_class(store)
        store.apply(make_gateway(name, namespace, traffic, replicas, revision))
        told.done(f"✅ waypoint {namespace}/{name} applied", **where, done="applied")
        if enroll_namespace:
            if space.metadata.labels.get(MODE_LABEL) != "ambient":
                text = f"namespace {namespace} is not in the mesh: its traffic does not go to the waypoint"
                remark("warning", "yellow", f"{text}; remedy: label it {MODE_LABEL}=ambient")
            store.patch_metadata(Namespace, "", namespace, labels={USE_LABEL: name})
            told.done(f'✅ namespace {namespace} labeled with "{USE_LABEL}: {name}"', **where, done="labelled")
        if wait:
            _wait_ready(store, namespace, name, timeout)
            told.done(f"✅ waypoint {namespace}/{name} is ready!", **where, done="ready")


@app.command(name="list")
def list_(
    namespace: InNamespace = "default",
    everywhere: Everywhere = False,
    out: Output = OutputFormat.SHORT,
    context: Context = None,
    lab: LabName = DEFAULT_LAB,
) -> None:
    """List waypoints."""
    found = _waypoints(store_of(lab, context), None if everywhere else namespace)
    if out is not OutputFormat.SHORT:
        print_value([to_document(gateway) for gateway in found], out)
        return
    if not found:
        say("No waypoints found.")
        return
    rows = [
        [
            gateway.metadata.name,
            gateway.metadata.labels.get(REVISION_LABEL, "default"),
            gateway.metadata.labels.get(TRAFFIC_LABEL, Traffic.SERVICE),
            _condition(gateway)["status"],
        ]
        for gateway in found
    ]
    _print(["NAME", "REVISION", "TRAFFIC TYPE", "PROGRAMMED"], rows, found, everywhere)


@app.command()
def status(
    names: Annotated[list[str] | None, typer.Argument(help="All when left out.")] = None,
    namespace: InNamespace = "default",
    everywhere: Everywhere = False,
    wait: Annotated[bool, typer.Option(help="Wait until they are programmed.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for.")] = _DEFAULT_WAIT_SECONDS,
    out: Output = OutputFormat.SHORT,
    context: Context = None,
    lab: LabName = DEFAULT_LAB,
) -> None:
    """Show whether waypoints are programmed; exit 1 if one is not."""
    store = store_of(lab, context)
    found = _chosen(store, names, None if everywhere else namespace)
    if wait:
        for gateway in found:
            _wait_ready(store, gateway.metadata.namespace, gateway.metadata.name, timeout)
        found = [store.get(Gateway, each.metadata.namespace, each.metadata.name) for each in found]
    conditions = [_condition(gateway) for gateway in found]
    if out is not OutputFormat.SHORT:
        print_value(
            [
                {"namespace": gateway.metadata.namespace, "name": gateway.metadata.name, **condition}
                for gateway, condition in zip(found, conditions, strict=True)
            ],
            out,
        )
    elif not found:
        say("No waypoints found.")
    else:
        rows = [
            [gateway.metadata.name, condition["status"], condition["type"], condition["reason"], condition["message"]]
            for gateway, condition in zip(found, conditions, strict=True)
        ]
        _print(["NAME", "STATUS", "TYPE", "REASON", "MESSAGE"], rows, found, everywhere)
    if any(condition["status"] != "True" for condition in conditions):
        raise typer.Exit(1)


@app.command()
def routes(
    namespace: InNamespace = "default",
    everywhere: Everywhere = False,
    out: Output = OutputFormat.SHORT,
    lab: LabName = DEFAULT_LAB,
    context: Context = None,
) -> None:
    """Show whether routes are accepted and their references resolved, and why not; exit 1 if one is not."""
    found = route_status.routes(store_of(lab, context), None if everywhere else namespace)
    if out is not OutputFormat.SHORT:
        print_value(found, out)
    elif not found:
        say("No routes found.")
    else:
        print_table(route_status.COLUMNS, [route_status.row(route) for route in found])
    if not all(route_status.serves(route) for route in found):
        raise typer.Exit(1)


@app.command()
def restart(
    names: Annotated[list[str] | None, typer.Argument(help="All of the namespace when left out.")] = None,
    namespace: InNamespace = "default",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return when only new replicas are left.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for.")] = _DEFAULT_WAIT_SECONDS,
    context: Context = None,
    lab: LabName = DEFAULT_LAB,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Replace the replicas of waypoints: each old one drains once a new one is ready, so no request is lost."""
    store = store_of(lab, context)
    found = _chosen(store, names, namespace)
    if not found and out is OutputFormat.SHORT:
        say("No waypoints found.")
    old = {gateway.metadata.name: set(_replicas(store, gateway)) for gateway in found}
    with deeds(out) as told:
        for gateway in found:
            name, moment = gateway.metadata.name, utc_now().isoformat(timespec="microseconds")
            store.patch_metadata(Gateway, namespace, name, annotations={RESTARTED_ANNOTATION: moment})
            told.done(f"waypoint {namespace}/{name} restarted", namespace=namespace, waypoint=name, done="restarted")
        deadline = time.monotonic() + timeout
        for gateway in found if wait else ():
            name = gateway.metadata.name
            _wait_replaced(store, gateway, old[name], deadline)
            told.done(f"✅ waypoint {namespace}/{name} is ready!", namespace=namespace, waypoint=name, done="ready")


@app.command()
def delete(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    everything: Annotated[bool, typer.Option("--all", help="All waypoints of the namespace.")] = False,
    revision: Revision = None,
    namespace: InNamespace = "default",
    context: Context = None,
    lab: LabName = DEFAULT_LAB,
    out: Output = OutputFormat.SHORT,
) -> None:
    """Remove waypoints: by name, all of a namespace, or those of a revision."""
    if bool(names) + everything + (revision is not None) != 1:
        raise ConfigurationError("give either the names of waypoints, --all or --revision")
    store = store_of(lab, context)
    wanted = names or [
        gateway.metadata.name
        for gateway in _waypoints(store, namespace)
        if revision in (None, gateway.metadata.labels.get(REVISION_LABEL))
    ]
    if not wanted and out is OutputFormat.SHORT:
        say("No waypoints found.")
    failed = False
    with deeds(out) as told:
        for name in wanted:
            try:
                gateway = store.get(Gateway, namespace, name)
            except ObjectMissing:
                remark("error", "red", f"waypoint {namespace}/{name} not found")
                failed = True
                continue
            if not _is_waypoint(gateway):
                remark("error", "red", f"Gateway {namespace}/{name} is no waypoint: it is left alone")
                failed = True
                continue
            store.delete(Gateway, namespace, name)
            told.done(f"waypoint {namespace}/{name} deleted", namespace=namespace, waypoint=name, done="deleted")
            if _asks_for(store, namespace, name):
                text = f"namespace {namespace} still asks for it, so calls to its services fail"
                remedy = f"take its label {USE_LABEL} away, or make the waypoint again"
                remark("warning", "yellow", f"{text}; remedy: {remedy}")
    if failed:
        raise typer.Exit(1)


def make_gateway(
    name: str, namespace: str, traffic: Traffic | None, replicas: int | None, revision: str | None = None
) -> Gateway:
    """The Gateway that is a waypoint.

    Raises:
        ConfigurationError: the name is reserved.
    """
    if name == RESERVED_NAME:
        raise ConfigurationError(f"a waypoint cannot be called {RESERVED_NAME}: the label's value means: no waypoint")
    labels = {} if traffic is None else {TRAFFIC_LABEL: traffic.value}
    if revision is not None:
        labels[REVISION_LABEL] = revision
    return Gateway(
        metadata=ObjectMeta(
            name=name,
            namespace=namespace,
            labels=labels,
            annotations={} if replicas is None else {REPLICAS_ANNOTATION: str(replicas)},
        ),
        spec=GatewaySpec(
            gateway_class_name=WAYPOINT_CLASS,
            listeners=(Listener(name="mesh", port=HBONE_PORT, protocol="HBONE"),),
        ),
    )


def _namespace(store: ObjectStore, name: str) -> Namespace:
    try:
        return store.get(Namespace, "", name)
    except ObjectMissing as error:
        raise ConfigurationError(f"there is no namespace {name}") from error


def _chosen(store: ObjectStore, names: list[str] | None, namespace: str | None) -> list[Gateway]:
    """Those of these names, or all; raises ConfigurationError if a name is of none."""
    found = [each for each in _waypoints(store, namespace) if not names or each.metadata.name in names]
    missing = set(names or ()) - {gateway.metadata.name for gateway in found}
    if missing:
        raise ConfigurationError(f"there is no waypoint {'' if namespace is None else f'{namespace}/'}{min(missing)}")
    return found


def _asks_for(store: ObjectStore, namespace: str, waypoint: str) -> bool:
    """Whether a namespace's label sends its traffic to this waypoint of its own."""
    try:
        labels = store.get(Namespace, "", namespace).metadata.labels
    except ObjectMissing:
        return False
    return labels.get(USE_LABEL) == waypoint and labels.get(USE_NAMESPACE_LABEL, namespace) == namespace


def _ensure_class(store: ObjectStore) -> None:
    """Make the class where the Gateway API was installed after the mesh."""
    if not isinstance(store, ClusterStore):
        return  # a lab needs none
    if all(one.metadata.name != WAYPOINT_CLASS for one in store.of_kind(GatewayClass)):
        spec = GatewayClassSpec(controller_name=CONTROLLER_NAME)
        store.apply(GatewayClass(metadata=ObjectMeta(name=WAYPOINT_CLASS), spec=spec))


def _is_waypoint(gateway: Gateway) -> bool:
    return gateway.spec.gateway_class_name in WAYPOINT_CLASSES


def _waypoints(store: ObjectStore, namespace: str | None) -> list[Gateway]:
    return [
        gateway
        for gateway in store.of_kind(Gateway)
        if _is_waypoint(gateway) and namespace in (None, gateway.metadata.namespace)
    ]


def _condition(gateway: Gateway) -> dict[str, Any]:
    """``Programmed``, as the operator wrote it; Unknown before it has looked."""
    conditions = () if gateway.status is None else gateway.status.conditions
    found = next((each for each in conditions if each.type == "Programmed"), None)
    if found is None:
        missing = "the operator has not seen this Gateway yet"
        return {"type": "Programmed", "status": "Unknown", "reason": "Pending", "message": missing}
    return {"type": found.type, "status": found.status, "reason": found.reason, "message": found.message}


def _wait_ready(store: ObjectStore, namespace: str, name: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        condition = _condition(store.get(Gateway, namespace, name))
        if condition["status"] == "True":
            return
        if time.monotonic() > deadline:
            text = f"waypoint {namespace}/{name} is not ready after {timeout:g} s: {condition['message']}"
            raise ConfigurationError(f"{text}; see ambimesh waypoint status")
        time.sleep(_POLL_SECONDS)


def _replicas(store: ObjectStore, gateway: Gateway) -> dict[str, bool]:
    """The uids of a waypoint's pods, and whether each is ready."""
    return {
        pod.metadata.uid: pod.status.ready
        for pod in store.of_kind(Pod)
        if pod.metadata.namespace == gateway.metadata.namespace
        and pod.metadata.labels.get(GATEWAY_NAME_LABEL) == gateway.metadata.name
    }


def _wait_replaced(store: ObjectStore, gateway: Gateway, old: set[str], deadline: float) -> None:
    """Wait until none of the old replicas is left, and as many new ones are ready."""
    while True:
        replicas = _replicas(store, gateway)
        if not old & replicas.keys() and sum(replicas.values()) >= max(1, len(old)):
            return
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"waypoint {gateway.metadata.namespace}/{gateway.metadata.name}: {len(old & replicas.keys())} of "
                f"{len(old)} replicas are still the old ones; see: ambimesh waypoint status"
            )
        time.sleep(_POLL_SECONDS)


def _print(columns: list[str], rows: list[list[str]], found: list[Gateway], everywhere: bool) -> None:
    if everywhere:
        columns = ["NAMESPACE", *columns]
        rows = [[gateway.metadata.namespace, *row] for gateway, row in zip(found, rows, strict=True)]
    print_table(columns, rows)

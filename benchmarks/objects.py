"""The lab's objects: per subject a namespace, a client on node1 and a server on either node."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cases import Placement, Subject
from benchmarks.loads import IPERF_PORT, RR_PORT
from resources.base import ObjectMeta
from resources.objects import AuthorizationPolicy, KubernetesObject, Namespace, Pod, ServiceAccount
from resources.pod import Container, PodSpec, Probe, TcpSocketAction
from resources.security import AuthorizationPolicySpec, AuthorizationRule, From, Source

CLIENT = "client"
SERVERS = {Placement.SAME: "server-1", Placement.CROSS: "server-2"}
MODE_LABEL = "istio.io/dataplane-mode"
_ONCE = 3600
"""Seconds between probes: once ready, a server is left alone."""


def objects_of(subject: Subject, rr: Path) -> list[KubernetesObject]:
    """All objects of a subject; an enrolled one has a policy that admits its client and nobody else.

    Args:
        subject: whose.
        rr: the compiled load generator.
    """
    space = subject.namespace
    labels = {MODE_LABEL: "ambient"} if subject.enrolled else {}
    found: list[KubernetesObject] = [Namespace(metadata=ObjectMeta(name=space, labels=labels))]
    found += [ServiceAccount(metadata=ObjectMeta(name=name, namespace=space)) for name in ("client", "server")]
    waiting = Container(name="client", command=("sleep", "infinity"))
    found.append(_pod(space, CLIENT, "node1", "client", [waiting]))
    # rr on the wildcard address of IPv4: the loads dial pods by their IPv4 addresses.
    echo = Container(
        name="rr",
        command=(str(rr), "server", "0.0.0.0", str(RR_PORT)),
        readiness_probe=Probe(tcp_socket=TcpSocketAction(port=RR_PORT), period_seconds=_ONCE),
    )
    # Without a probe: to iperf3 a connection that says nothing is a client that fails.
    bulk = Container(name="iperf3", command=("iperf3", "-s", "-p", str(IPERF_PORT)))
    for node, name in (("node1", SERVERS[Placement.SAME]), ("node2", SERVERS[Placement.CROSS])):
        found.append(_pod(space, name, node, "server", [echo, bulk]))
    if subject.enrolled:
        found.append(_admit_client(space))
    return found


def _pod(namespace: str, name: str, node: str, account: str, containers: list[Container]) -> Pod:
    return Pod(
        metadata=ObjectMeta(name=name, namespace=namespace, labels={"app": account}),
        spec=PodSpec(
            containers=tuple(containers),
            node_name=node,
            service_account_name=account,
            termination_grace_period_seconds=1,
        ),
    )


def _admit_client(namespace: str) -> AuthorizationPolicy:
    source = Source(principals=(f"cluster.local/ns/{namespace}/sa/client",))
    return AuthorizationPolicy(
        metadata=ObjectMeta(name="admit-client", namespace=namespace),
        spec=AuthorizationPolicySpec(rules=(AuthorizationRule(from_=(From(source=source),)),), action="ALLOW"),
    )

"""``/config_dump``: everything this ztunnel knows, as flat objects for people and for ``ambimesh ztunnel-config``."""

from __future__ import annotations

import os
from typing import Any

from mesh import compiled
from mesh.addresses import format_ip
from mesh.certificates.manager import CertificateReport, IdentityManager
from mesh.model.policy import Policy
from mesh.model.service import Service
from mesh.model.workload import GatewayAddress, HealthStatus, NamespacedHostname, NetworkAddress, Workload
from mesh.state.service_index import ServiceView
from mesh.state.store import MeshState
from mesh.tls.kernel_driver import KernelTls, NoKernelTls, describe
from ztunnel.inpod.manager import PodManager
from ztunnel.proxy.connections import Connection, ConnectionTable

Flat = dict[str, Any]


def dump(
    state: MeshState,
    identities: IdentityManager,
    connections: ConnectionTable,
    pods: PodManager,
    kernel_tls: KernelTls | NoKernelTls,
) -> dict[str, list[Flat]]:
    """All tables of a ztunnel that is one process."""
    return {**dump_state(state), **dump_traffic(identities, connections, pods, kernel_tls)}


def dump_state(state: MeshState) -> dict[str, list[Flat]]:
    """What the control plane has said."""
    return {
        "workloads": [_workload(workload) for workload in state.workloads.by_uid.values()],
        "services": [_service(view, view.service) for view in state.services.views.values() if view.service],
        "policies": [_policy(policy) for policy in state.policies.by_key.values()],
    }


def dump_traffic(
    identities: IdentityManager, connections: ConnectionTable, pods: PodManager, kernel_tls: KernelTls | NoKernelTls
) -> dict[str, list[Flat]]:
    """What this process itself has: certificates, connections, pods."""
    return {
        "certificates": [_certificate(report) for report in identities.report()],
        "connections": [_connection(connection) for connection in connections],
        "pods": _pods(pods),
        "processes": [_process(compiled.current(), kernel_tls)],
    }


def _workload(workload: Workload) -> Flat:
    return {
        "uid": workload.uid,
        "name": workload.name,
        "namespace": workload.namespace,
        "addresses": [format_ip(ip) for ip in workload.addresses],
        "node": workload.node,
        "waypoint": _gateway(workload.waypoint),
        "protocol": "HBONE" if workload.tunnel_protocol else "TCP",
        "identity": str(workload.identity),
        "serviceAccount": workload.service_account,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "workloadName": workload.workload_name,
        "workloadType": workload.workload_type.name.lower(),
        "network": workload.network,
        "clusterId": workload.cluster_id,
        "status": workload.status.name.capitalize(),
        "authorizationPolicies": list(workload.authorization_policies),
        "services": list(workload.services),
    }


def _service(view: ServiceView, service: Service) -> Flat:
    healthy = sum(1 for endpoint in view.endpoints.values() if endpoint.status is HealthStatus.HEALTHY)
    return {
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": [_network_address(address) for address in service.addresses],
        "ports": {str(port.service_port): port.target_port for port in service.ports},
        "waypoint": _gateway(service.waypoint),
        "endpoints": f"{healthy}/{len(view.endpoints)}",
        "endpointWorkloads": sorted(view.endpoints),
    }


def _policy(policy: Policy) -> Flat:
    return {
        "name": policy.name,
        "namespace": policy.namespace,
        "action": policy.action.name.capitalize(),
        "scope": "".join(word.capitalize() for word in policy.scope.name.split("_")),
        "dryRun": policy.dry_run,
        "rules": len(policy.rules),
    }


def _certificate(report: CertificateReport) -> Flat:
    credentials = report.credentials
    return {
        "name": str(report.identity),
        "type": "Leaf",
        "status": report.state.value,
        "valid": credentials is not None,
        "serialNumber": None if credentials is None else f"{credentials.serial:x}",
        "notBefore": None if credentials is None else credentials.not_before.isoformat(),
        "notAfter": None if credentials is None else credentials.not_after.isoformat(),
        "renewAt": None if report.renew_at is None else report.renew_at.isoformat(),
        "error": report.error,
    }


def _connection(connection: Connection) -> Flat:
    connection.count_bytes()
    record = connection.record
    return {
        "workload": connection.pod.name,
        "direction": record.direction.capitalize(),
        "local": str(record.source if record.direction == "outbound" else record.destination),
        "remote": str(record.destination if record.direction == "outbound" else record.source),
        "remoteTarget": record.destination_service or record.hbone_target or "",
        "protocol": "HBONE" if record.no_mtls is None else "TCP",
        "sourceIdentity": None if record.source_identity is None else str(record.source_identity),
        "destinationIdentity": None if record.destination_identity is None else str(record.destination_identity),
        "bytesSent": record.bytes_sent,
        "bytesReceived": record.bytes_received,
    }


def _pods(pods: PodManager) -> list[Flat]:
    served = [
        {
            "uid": server.pod.uid,
            "name": server.pod.name,
            "identity": str(server.pod.identity),
            "addresses": [format_ip(ip) for ip in server.pod.addresses],
            "described": server.pod.workload is not None,
            "tunnelsOut": len(server.pool),
            "tunnelsIn": len(server.terminator),
        }
        for server in pods.serving
    ]
    return served + [{"uid": uid, "pending": True} for uid in pods.pending]


def _process(form: compiled.Form, kernel_tls: KernelTls | NoKernelTls) -> Flat:
    return {
        "pid": os.getpid(),
        "form": form.name,
        "formDetail": form.detail,
        "kernelTls": describe(kernel_tls),
    }


def _gateway(gateway: GatewayAddress | None) -> str:
    if gateway is None:
        return "None"
    destination = gateway.destination
    return str(destination) if isinstance(destination, NamespacedHostname) else _network_address(destination)


def _network_address(address: NetworkAddress) -> str:
    return f"{address.network}/{format_ip(address.ip)}" if address.network else format_ip(address.ip)

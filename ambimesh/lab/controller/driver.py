"""Watches the object store and writes what ``plan`` asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import structlog
import trio

from ambimesh.lab.controller.plan import NAMESPACE_NAME_LABEL, Plan, plan
from ambimesh.lab.controller.tokens import AccountTokens
from mesh.errors import MeshError, ObjectMissing
from resources.folder_source import FolderSource
from resources.folder_store import FolderStore
from resources.objects import KINDS, EndpointSlice, Namespace, Pod, Service, ServiceAccount

_logger = structlog.get_logger()


async def run_controllers(cluster: Path, nodes: Sequence[str], tokens: Path) -> None:
    """Work until cancelled.

    Args:
        cluster: the object store.
        nodes: the nodes' names, in their order.
        tokens: the folder of the accounts' tokens.
    """
    accounts = AccountTokens(tokens)
    store = FolderStore(cluster)
    source = FolderSource(cluster)
    async with source.open():
        while True:
            objects = await source.wait_change()
            try:
                wanted = plan(objects, nodes)
                accounts.update(objects.of_kind(ServiceAccount))
                if wanted:
                    await trio.to_thread.run_sync(_carry_out, wanted, store)
            except MeshError as error:
                # The next change of any object is the next attempt.
                _logger.error("controllers_failed", error=str(error))


def _carry_out(wanted: Plan, store: FolderStore) -> None:
    for namespace in wanted.labels:
        with _unless_deleted():
            name = namespace.metadata.name
            store.patch_metadata(Namespace, "", name, labels={NAMESPACE_NAME_LABEL: name})
    for account in wanted.accounts:
        store.apply(account)
    for key, node in wanted.placements.items():
        with _unless_deleted():
            store.modify(Pod, key.namespace, key.name, partial(_placed, node))
            _logger.info("pod_placed", pod=f"{key.namespace}/{key.name}", node=node)
    for service in wanted.services:
        with _unless_deleted():
            store.modify(Service, service.metadata.namespace, service.metadata.name, partial(_addressed, service))
            _logger.info("service_address_given", service=str(service.key), addresses=service.spec.cluster_ips)
    for pod in wanted.pods:
        store.apply(pod)
    for key in wanted.deleted:
        store.delete(KINDS[key.kind], key.namespace, key.name)
        _logger.info("deleted", object=str(key))
    for entry in wanted.slices:
        store.replace(entry)
    for entry in wanted.obsolete:
        store.delete(EndpointSlice, entry.metadata.namespace, entry.metadata.name)


@contextmanager
def _unless_deleted() -> Iterator[None]:
    """Let an object go that was deleted between the look and the write."""
    try:
        yield
    except ObjectMissing:
        pass


def _placed(node: str, pod: Pod) -> Pod:
    if pod.spec.node_name:
        return pod
    return msgspec.structs.replace(pod, spec=msgspec.structs.replace(pod.spec, node_name=node))


def _addressed(wanted: Service, service: Service) -> Service:
    spec = msgspec.structs.replace(
        service.spec,
        cluster_ip=wanted.spec.cluster_ip,
        cluster_ips=wanted.spec.cluster_ips,
        ip_families=wanted.spec.ip_families,
    )
    return msgspec.structs.replace(service, spec=spec)

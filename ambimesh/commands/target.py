"""Which mesh a command is about: a lab, or a cluster of the kubeconfig."""

from __future__ import annotations

from ambimesh.cluster.client_driver import Cluster
from ambimesh.cluster.object_store import ClusterStore, ObjectStore
from ambimesh.lab import record
from ambimesh.lab.layout import LabLayout
from mesh.errors import ConfigurationError
from resources.folder_store import FolderStore


def cluster_of(lab: str, context: str | None) -> Cluster | None:
    """The cluster that is meant; None if it is the lab.

    ``--context`` means a cluster. Without it a lab that runs is meant, else the current context of the kubeconfig.

    Raises:
        ConfigurationError: there is no such context; or neither a lab nor a kubeconfig.
    """
    if context is not None:
        return Cluster(context)
    try:
        record.require(LabLayout.named(lab))
    except ConfigurationError as no_lab:
        try:
            return Cluster()
        except ConfigurationError as no_cluster:
            raise ConfigurationError(f"{no_lab}; and {no_cluster}") from no_cluster
    return None


def store_of(lab: str, context: str | None) -> ObjectStore:
    """Where the objects are. Raises as :func:`cluster_of`."""
    cluster = cluster_of(lab, context)
    if cluster is not None:
        return ClusterStore(cluster)
    return FolderStore(record.require(LabLayout.named(lab)).layout.cluster)

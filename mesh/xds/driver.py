"""Delta xDS as other packages use it."""

from __future__ import annotations

from mesh.xds.client_driver import (
    METHOD,
    Connect,
    MessageStream,
    ResourceHandler,
    XdsClient,
    aggregated_stream,
    run_client,
)
from mesh.xds.client_machine import Subscription
from mesh.xds.discovery_codec import NodeInfo, Rejected, Resource
from mesh.xds.server_driver import ConnectedClient, SnapshotSource, SnapshotStore, XdsServer
from mesh.xds.snapshot import Entry, Snapshot, entry

__all__ = [
    "METHOD",
    "Connect",
    "ConnectedClient",
    "Entry",
    "MessageStream",
    "NodeInfo",
    "Rejected",
    "Resource",
    "ResourceHandler",
    "Snapshot",
    "SnapshotSource",
    "SnapshotStore",
    "Subscription",
    "XdsClient",
    "XdsServer",
    "aggregated_stream",
    "entry",
    "run_client",
]

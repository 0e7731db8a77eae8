"""Resources that every proxy asks for, as bytes: the one module others import to read or write them.

Those of waypoints are in ``waypoint_codec``, so that ztunnels do not carry the models of layer 7: 1 MB on every node.
"""

from __future__ import annotations

from mesh.xds.address_codec import decode_address, encode_address
from mesh.xds.authorization_codec import decode_authorization, encode_authorization

ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"
DESTINATION_TYPE = "type.googleapis.com/ambimesh.waypoint.v1.Destination"
LABELS_TYPE = "type.googleapis.com/ambimesh.workload.v1.Labels"

__all__ = [
    "ADDRESS_TYPE",
    "AUTHORIZATION_TYPE",
    "DESTINATION_TYPE",
    "LABELS_TYPE",
    "decode_address",
    "decode_authorization",
    "encode_address",
    "encode_authorization",
]

"""Resources of the mesh as bytes: the one module others import to read or write them."""

from __future__ import annotations

from mesh.xds.address_codec import decode_address, encode_address
from mesh.xds.authorization_codec import decode_authorization, encode_authorization
from mesh.xds.waypoint_codec import decode_destination, decode_labels, encode_destination, encode_labels

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
    "decode_destination",
    "decode_labels",
    "encode_address",
    "encode_authorization",
    "encode_destination",
    "encode_labels",
]

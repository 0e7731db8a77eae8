"""Resources of the mesh as bytes: the one module others import to read or write them."""

from __future__ import annotations

from mesh.xds.address_codec import decode_address, encode_address
from mesh.xds.authorization_codec import decode_authorization, encode_authorization

ADDRESS_TYPE = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION_TYPE = "type.googleapis.com/istio.security.Authorization"

__all__ = [
    "ADDRESS_TYPE",
    "AUTHORIZATION_TYPE",
    "decode_address",
    "decode_authorization",
    "encode_address",
    "encode_authorization",
]

"""What the mesh knows, as frozen values that every component shares.

What belongs here: workloads, services and policies, which mirror ``istio.workload.Address`` and
``istio.security.Authorization`` field by field, with addresses in their 16-byte form; and what waypoints are told of a
destination (``waypoint``, ``http_route``, ``request_policy``, ``upstream_policy``). What does not: I/O, clocks,
Kubernetes objects, and any bytes on the wire (``mesh.xds``).
"""

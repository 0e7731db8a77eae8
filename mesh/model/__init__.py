"""What the mesh knows: workloads, services, policies, as frozen values that every component shares.

These mirror ``istio.workload.Address`` and ``istio.security.Authorization`` field by field (see ``mesh.xds.codec``),
with addresses in their 16-byte form. No I/O, no clock, no Kubernetes.
"""

"""What a proxy knows of the mesh, and where a connection goes by it.

What belongs here: the tables filled by delta xDS (workloads, services, policies), their look-ups, and the pure choice
of an upstream. What does not: sockets, certificates, the authorization decision itself (``mesh.rbac``). Look-ups on the
path of a connection are plain dictionary gets; whatever can be computed when something changes is computed then.
"""

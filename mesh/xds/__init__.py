"""Delta xDS: how the operator tells ztunnels and waypoints what the mesh looks like, and how they listen.

What belongs here: resources as bytes (codec), the two ends of the delta protocol without I/O (machines), versioned
snapshots, and the trio drivers that join them to ``mesh.grpc``. What does not: where the resources come from (the
operator's translation) and what a reader does with them (ztunnel's state).
"""

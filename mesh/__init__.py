"""The shared kernel of the mesh.

What belongs here: values and protocols that more than one component speaks: identity, addresses, the model of
workloads, services and policies, the authorization decision, HBONE, gRPC, xDS, ZDS, TLS, telemetry, configuration,
errors, the test kit that ships with the product; and what every proxy of the mesh stands on: the relay engine, the
state it keeps, the certificates it holds.

What does not: any component (ztunnel, waypoint, cni, operator), Kubernetes objects, BPF. This package imports nothing
of ours. Modules named ``*codec`` turn bytes into values and back, ``*machine`` turn events into commands; neither does
I/O or reads a clock. ``*driver`` modules are the only ones that touch trio or sockets.
"""

"""Kubernetes objects to the mesh's model.

What belongs here: pure functions from objects to workloads, services and policies, and the incremental translator that
calls them for what a change touches and nothing else. Values in, values out: no I/O, no clock, no logging.

What is not supported is never ignored in silence: it becomes a ``Finding``.
"""

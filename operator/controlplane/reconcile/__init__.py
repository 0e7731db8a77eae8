"""What the operator makes in the cluster, and what it says there.

What belongs here: pure functions from objects to the objects that should be there, and the writer that brings one to
the other. What does not: what proxies are told (``controlplane.translate``). Everything made is owned by the object
that asked for it, so that the cluster's own garbage collection takes it away, and nothing of others is changed.
"""

"""One of several workers: a process that moves bytes for all pods of the node, as its supervisor tells it.

What belongs here: a worker's composition (``app``), its certificates (``certificates``), what it tells of connections
for the fast path (``fast_path``) and of its counters (``counting``). What does not: the data plane itself
(``ztunnel.data_plane``), which a ztunnel of one process has as well.
"""

"""The node proxy: one layer-4 zero-trust tunnel per node.

What belongs here: which pods are served and where their connections go (``inpod``, ``proxy``), the same-node fast path
(``fastpath``), what ztunnel shows of itself (``admin``), and its processes: one that is everything (``app``), or a
supervisor, its workers and what they say to each other (``supervisor``, ``worker``, ``fanout``). What does not: what
every proxy of the mesh stands on (``mesh``), and the kernel's programs and maps (``ebpf``); no other package of ours is
imported here.
"""

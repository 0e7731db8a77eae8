"""Edges of the same-node fast path: the maps it is told and tells by, the kernel's own types, ending a connection.

What belongs here: typed access to what ``programs/splice.bpf.c`` and its kin share with user space. What does not: who
is admitted (``ztunnel.fastpath``), compiling and attaching (``ebpf.loader``).
"""

"""The kernel side of the mesh and its typed Python edge.

What belongs here: the programs (``programs/*.bpf.c``) and the one header they share with user space, the loader, bpf(2)
and the pinned maps and links, seen as pods, listeners, deliveries, counters. What does not: who is enrolled and why
(``cni``), what is done with a captured connection (``ztunnel``).

Only ``ebpf.loader`` imports bcc, and it runs in a child process that ends: bcc brings LLVM along. Everything else here
is plain system calls on objects pinned in bpffs, so that the programs outlive every process of the mesh.
"""

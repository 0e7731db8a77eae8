"""The same-node fast path: what ztunnel has admitted once, the kernel carries the next time.

What belongs here: which connections may be remembered (``decisions``, pure), the verdicts kept current and the live
connections judged again (``manager``), and the metrics and access records of connections that never came through this
process (``records``). What does not: maps and programs (``ebpf.fastpath``), the authorization decision (``mesh.rbac``).
"""

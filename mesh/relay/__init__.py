"""The relay engine: moves the bytes of established connections.

What belongs here: the loop (``engine``), one application socket (``socket_end``), that socket joined to a stream of a
``tunnel`` (``stream_end``), two sockets joined to each other (``plain_pair``), the listening sockets (``acceptor``),
and tunnels as they are opened (``pool``) and accepted (``terminator``). What does not: workloads, policies and the
control plane: who may talk to whom is decided by the proxy before an end is made.
"""

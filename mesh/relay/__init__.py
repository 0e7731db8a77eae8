"""The relay engine: moves the bytes of established connections.

``engine`` is the loop, ``socket_end`` one application socket, ``stream_end`` that socket joined to a stream of a
``tunnel``, ``plain_pair`` two sockets joined to each other, ``acceptor`` the listening sockets. Nothing here knows
workloads, policies or the control plane: who may talk to whom is decided by the proxy before an end is made.
"""

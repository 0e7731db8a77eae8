"""HBONE: TCP connections carried as HTTP/2 CONNECT streams inside mutual TLS.

What belongs here: requests, responses and frame headers as bytes and back (``codec``, ``header_codec``), the protocol
with its streams, windows and limits, without I/O (``control_machine``, ``machine``), and one connection's streams as
those of trio (``driver``, ``tunnel_driver``). What does not: TLS (``mesh.tls``), and the moving of bytes in batches:
the relay engine (``mesh.relay``) drives the machine itself.
"""

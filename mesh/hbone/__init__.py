"""HBONE: TCP connections carried as HTTP/2 CONNECT streams inside mutual TLS.

``codec`` turns requests, responses and frame headers into bytes and back; ``machine`` is the protocol: streams,
windows and limits, with no I/O; ``driver`` offers one connection's streams as trio streams. The node proxy's relay
engine drives the machine itself, because it moves bytes in batches.
"""

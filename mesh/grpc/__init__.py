"""gRPC over HTTP/2 on trio: what xDS and the certificate service need, and no more.

What belongs here: unary and bidirectional calls, both ends: metadata, deadlines, trailers, flow control, bounds.
What does not: protocol buffers (calls carry bytes), compression (never offered), name resolution, load balancing,
retries. ``mesh.grpc.driver`` is what other packages import.
"""

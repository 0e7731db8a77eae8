"""What the mesh tells about itself: process logs, access logs, metrics, and the small HTTP server that shows them.

Belongs here: how a record is formed, buffered and served. Does not belong here: which events are worth a record (the
component that sees them decides), and anything that knows a proxy, Kubernetes or BPF.
"""

"""What ztunnel shows of itself: the state dump, log levels, readiness.

What belongs here: what is ztunnel's own of its ports: the contents of ``/config_dump``, why it is not ready. What does
not: the ports themselves and what all proxies show alike (``mesh.admin``, ``mesh.telemetry``).
"""

"""Connections as the HTTP layers see them: bytes in order, both ways, with back-pressure.

What belongs here: the seam between HTTP and what carries it, its implementations (a socket, a stream of a tunnel, TLS
over either), and the timers of everything that waits for the other side. What does not: HTTP, and how connections come
about.
"""

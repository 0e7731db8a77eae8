"""Decisions about connections: where they go, who may make them, and what is recorded of them.

What belongs here: what applications dial (``outbound``), what peers ask for inside tunnels (``inbound``), what reaches
a pod without one (``plaintext``), the sockets that dial applications (``delivery``), and the table of all that is alive
(``connections``), which ``descriptions`` walks when a policy changes. What does not: tunnels, their pools and the
moving of bytes (``mesh.relay``), and the choice of an upstream (``mesh.state``).
"""

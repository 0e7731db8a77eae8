"""Decisions about connections: where they go, who may make them, and what is recorded of them.

``outbound`` takes what applications dial, ``inbound`` what peers ask for inside tunnels, ``plaintext`` what reaches a
pod without one. ``pool`` keeps the tunnels this node opened, ``terminator`` those it accepted, ``delivery`` makes the
sockets that dial applications, ``connections`` is the table of all that is alive, which ``descriptions`` walks when a
policy changes. Bytes are moved by ``mesh.relay``.
"""

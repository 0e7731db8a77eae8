"""What exists once per node when ztunnel has several workers.

What belongs here: starting workers and replacing those that die (``spawner``, ``spawner_driver``, ``workers``), handing
out pods, the state of the mesh and certificates (``pods``, ``state``, ``crew``), adding up what they count and show
(``counts``, ``reports``), and the process that does all this (``app``). What does not: moving bytes (``worker``), and
the messages between them (``fanout``).
"""

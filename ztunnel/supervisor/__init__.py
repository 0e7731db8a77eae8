"""What exists once per node when ztunnel has several workers.

What belongs here: starting workers and replacing those that die (``spawner``, ``spawner_driver``, ``crew``,
``worker_link``), handing out pods and the state of the mesh (``pods``, ``shared_state``), adding up what they count and
show (``counts``, ``reports``, ``process_metrics``), and the process that does all this (``app``). What does not: moving
bytes (``ztunnel.worker``), and the messages between them (``ztunnel.fanout``).
"""

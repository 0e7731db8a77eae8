"""The CNI plugin's logic and the node agent.

What belongs here: the static plugin's source (``plugin/``), its protocol (``protocol_codec``), the server behind it
(``plugin_server``), the decisions which pods are enrolled (``enrolment``) and what is to be done about it (``plan``),
the installer that chains the plugin into the node's CNI configuration, and the agent process (``agent/``).

What does not: BPF (``ebpf``), Kubernetes objects (``resources``), the packets to ztunnel (``mesh.zds``). ``enrolment``,
``plan``, ``installer.conflist`` and the codec take values and return values; the drivers do.
"""

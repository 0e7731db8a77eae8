"""The node agent: ``python -m cni --config FILE``.

What belongs here: where pods come from (``pod_source``, ``folder_pods``, ``api_pods``), where their network namespaces
are (``sandboxes``, ``namespace_finder``), enrolling one pod (``enroller``), the container runtime's requests
(``attachments``), keeping all pods as they should be (``reconciler``), metrics of it and of the eBPF programs
(``program_metrics``), configuration, and the process that puts them together (``app``). What does not: the decisions,
which are ``cni.enrolment`` and ``cni.plan``.
"""

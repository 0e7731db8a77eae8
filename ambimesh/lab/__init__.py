"""A cluster in network namespaces, without Kubernetes.

What belongs here: the lab's layout (``layout``), the kernel objects it is made of (``fabric``, ``cgroups``,
``programs``), its processes (``processes``, ``launch``), and bringing all of it up and down (``bring_up``,
``take_down``). What Kubernetes would do is done by stand-ins that know nothing of the mesh: the kubelet and
kube-proxy of each node (``kubelet``), the scheduler and controllers (``controller``). The object store between them
is a folder (``resources.folder_store``).
"""

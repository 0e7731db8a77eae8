"""What stands in for a node's kubelet, container runtime and kube-proxy.

What belongs here: running the pods that are scheduled to a node (``pods``), giving them a network by executing the
node's real CNI plugins (``cni_plan``, ``cni_runner``), probing them (``probes``), and making Service addresses work
from the node's namespace (``service_rules``). It knows nothing of the mesh: all it shares with the agent is what a
real kubelet would, the CNI folder and the object store.
"""

"""Which Kubernetes the kit builds. After a change here run ``python -m tests.e2e.kit.pin``.

1.34 is the newest minor version whose kubelet runs by default on a machine with cgroup v1 controllers, as some that the
tests run on have them.
"""

from __future__ import annotations

KUBERNETES = "v1.34.4"
KUBERNETES_LIBRARIES = "v0" + KUBERNETES.removeprefix("v1")
"""The version under which Kubernetes publishes its libraries as modules."""
COREDNS = "v1.14.6"

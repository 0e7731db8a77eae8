"""Which pods are asked. What they answer is in ``test_port_forward_driver``."""

from __future__ import annotations

from typing import Any

import pytest

from ambimesh.cluster import ztunnels
from mesh.errors import ConfigurationError


class Pods:
    """Stands for a cluster that has only these."""

    def __init__(self, *pods: dict[str, Any]) -> None:
        self._pods = pods
        self.asked: dict[str, str] = {}

    def all_of(self, _version: str, _kind: str, namespace: str, **query: str) -> Any:
        self.asked = {"namespace": namespace, **query}
        return iter(self._pods)


def _pod(name: str, node: str, made: str, phase: str = "Running") -> dict[str, Any]:
    metadata = {"name": name, "creationTimestamp": made}
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": {"phase": phase}}


def test_of_each_node_the_newest_that_runs() -> None:
    pods = Pods(_pod("b", "n1", "2"), _pod("a", "n1", "1"), _pod("c", "n2", "1"), _pod("d", "n2", "9", "Pending"))
    assert ztunnels.pods(pods, "m") == {"n1": "b", "n2": "c"}  # type: ignore[arg-type]
    ztunnels.pods(pods, "m", "n1")  # type: ignore[arg-type]
    assert pods.asked["fields"] == "spec.nodeName=n1"


def test_none_is_an_error_that_says_where() -> None:
    with pytest.raises(ConfigurationError, match="on node n9"):
        ztunnels.pods(Pods(), "m", "n9")  # type: ignore[arg-type]

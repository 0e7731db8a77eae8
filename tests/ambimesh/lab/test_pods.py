from __future__ import annotations

from pathlib import Path

import pytest

from ambimesh.lab import pods
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.record import Lab, LabRecord
from mesh.errors import ConfigurationError, ObjectMissing
from resources.base import ObjectMeta
from resources.objects import Pod
from resources.pod import Container, EnvironmentVariable, PodIp, PodSpec, PodStatus


def pod(**status: object) -> Pod:
    container = Container(name="c", command=("x",), env=(EnvironmentVariable(name="A", value="b"),))
    spec = PodSpec(containers=(container,), node_name="node1")
    return Pod(metadata=ObjectMeta(name="web", namespace="shop"), spec=spec, status=PodStatus(**status))  # type: ignore[arg-type]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(LabLayout.named("lab", tmp_path), LabRecord(name="lab", nodes=1, mesh=False, cgroup="/c"))


def test_names_of_pods() -> None:
    assert pods.split_name("shop/web") == ("shop", "web")
    assert pods.split_name("web") == ("default", "web")
    for text in ("", "/", "shop/", "/web", "a/b/c"):
        with pytest.raises(ConfigurationError, match="write NAMESPACE/POD"):
            pods.split_name(text)


def test_a_pod_that_is_not_there(lab: Lab) -> None:
    with pytest.raises(ObjectMissing):
        pods.find_pod(lab, "shop", "web")


def test_a_pod_that_does_not_run_says_why(lab: Lab) -> None:
    with pytest.raises(ConfigurationError, match="does not run yet: the agent is away"):
        pods.place_of(lab, pod(message="the agent is away"))
    with pytest.raises(ConfigurationError, match="does not run any more"):
        pods.place_of(lab, pod(pod_ips=(PodIp(ip="10.244.1.2"),)))


def test_a_command_gets_the_containers_environment() -> None:
    variables = pods.environment_of(pod())
    assert (variables["A"], variables["HOSTNAME"]) == ("b", "web")

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ambimesh.lab.kubelet.container_environment import command, environment, expand
from mesh.errors import ConfigurationError
from resources.base import ObjectMeta
from resources.objects import Pod
from resources.pod import Container, EnvironmentVariable, PodSpec

POD = Pod(
    metadata=ObjectMeta(name="web", namespace="shop", uid="u"),
    spec=PodSpec(containers=(), node_name="node1", service_account_name="seller"),
)


def variables(*env: EnvironmentVariable) -> dict[str, str]:
    return environment(Container(name="c", env=env), POD, ("10.0.0.1", "fd00::1"), {"PATH": "/bin"})


def field(name: str, path: str) -> EnvironmentVariable:
    return EnvironmentVariable(name=name, value_from={"fieldRef": {"fieldPath": path}})


def test_variables_may_name_earlier_ones_and_fields_of_the_pod() -> None:
    made = variables(
        field("IP", "status.podIP"),
        field("IPS", "status.podIPs"),
        field("ACCOUNT", "spec.serviceAccountName"),
        EnvironmentVariable(name="URL", value="http://$(IP):80/$(MISSING)$$(IP)"),
    )
    assert made["URL"] == "http://10.0.0.1:80/$(MISSING)$(IP)"
    assert made["IPS"] == "10.0.0.1,fd00::1"
    assert made["ACCOUNT"] == "seller"
    assert (made["PATH"], made["HOSTNAME"]) == ("/bin", "web")


def test_sources_the_lab_does_not_have_are_named() -> None:
    with pytest.raises(ConfigurationError, match="variable KEY: the lab knows"):
        variables(EnvironmentVariable(name="KEY", value_from={"secretKeyRef": {"name": "s", "key": "k"}}))


def test_the_command_is_expanded_and_has_to_be_given() -> None:
    container = Container(name="c", command=("serve",), args=("--port", "$(PORT)"))
    assert command(container, {"PORT": "80"}) == ["serve", "--port", "80"]
    with pytest.raises(ConfigurationError, match="container c has no command: the lab ignores images"):
        command(Container(name="c", image="nginx", args=("-g",)), {})


@given(st.text(alphabet="ab"))
def test_text_without_references_stays(text: str) -> None:
    assert expand(text, {"a": "b"}) == text

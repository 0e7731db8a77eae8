from __future__ import annotations

import msgspec
import pytest

from resources.base import ObjectMeta
from resources.kube.lean import lean
from resources.pod import Container, PodSpec, PodStatus

SPEC = PodSpec(containers=(Container(name="c"),), node_name="n", service_account_name="web", hostname="h")


def test_what_is_kept_is_the_same_and_the_rest_is_as_if_left_out() -> None:
    thin = lean(SPEC, "containers", "host_network", node_name="m")
    left_out = PodSpec(containers=SPEC.containers, node_name="m")
    for name in PodSpec.__struct_fields__:
        assert getattr(thin, name) == getattr(left_out, name), name
    assert thin.account == "default", "what is computed is computed of it"
    assert lean(SPEC, "containers", "service_account_name").account == "web"


def test_it_is_written_without_the_others_and_equals_its_like() -> None:
    thin = lean(ObjectMeta(name="x", uid="u", labels={"a": "b"}), "name", "labels", "deletion_timestamp")
    assert msgspec.to_builtins(thin) == {"name": "x", "labels": {"a": "b"}}
    assert thin == lean(ObjectMeta(name="x", uid="other", labels={"a": "b"}), "name", "labels", "deletion_timestamp")
    assert msgspec.structs.replace(thin, name="y").name == "y"


def test_it_is_smaller_and_cannot_be_changed() -> None:
    status = PodStatus(phase="Running", pod_ip="10.0.0.1")
    thin = lean(status, "phase", "conditions", "pod_ip", "pod_ips")
    assert thin.__sizeof__() < status.__sizeof__() / 2
    assert thin.addresses == ("10.0.0.1",)
    with pytest.raises(AttributeError):
        thin.phase = "Failed"  # type: ignore[misc]


def test_a_field_that_must_be_said_must_be_kept() -> None:
    with pytest.raises(TypeError, match=r"PodSpec\.containers"):
        lean(SPEC, "node_name")

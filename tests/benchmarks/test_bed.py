from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.bed import sum_of
from benchmarks.cases import AMBIMESH, ENVOY, NO_MESH, SUBJECTS, Subject
from benchmarks.objects import CLIENT, MODE_LABEL, SERVERS, objects_of
from resources.objects import AuthorizationPolicy, Namespace, Pod

RR = Path("/somewhere/rr")


def test_only_the_enrolled_subject_is_labelled_and_has_a_policy() -> None:
    objects = [value for subject in (NO_MESH, AMBIMESH, ENVOY) for value in objects_of(subject, RR)]
    labels = [value.metadata.labels for value in objects if isinstance(value, Namespace)]
    assert labels == [{}, {MODE_LABEL: "ambient"}, {}]
    assert [value.metadata.namespace for value in objects if isinstance(value, AuthorizationPolicy)] == ["mesh"]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.namespace)
def test_pods_are_placed_alike(subject: Subject) -> None:
    pods = {value.metadata.name: value for value in objects_of(subject, RR) if isinstance(value, Pod)}
    assert set(pods) == {CLIENT, *SERVERS.values()}
    assert [pods[name].spec.node_name for name in (CLIENT, *SERVERS.values())] == ["node1", "node1", "node2"]


def test_the_policy_names_the_client_alone() -> None:
    (policy,) = (value for value in objects_of(AMBIMESH, RR) if isinstance(value, AuthorizationPolicy))
    (rule,) = policy.spec.rules
    assert policy.spec.action == "ALLOW"
    assert rule.from_ is not None
    assert [one.source.principals for one in rule.from_ if one.source] == [("cluster.local/ns/mesh/sa/client",)]


def test_a_metric_is_summed_over_its_labels() -> None:
    page = "\n".join(
        [
            "# TYPE opened_total counter",
            'opened_total{reporter="source",text="a } b"} 3',
            'opened_total{reporter="destination"} 4.0 1700000000000',
            "opened_total_created 99",
            'opened_total_created{reporter="source"} 99',
        ]
    )
    assert sum_of("opened_total", page) == 7
    assert sum_of("absent", page) == 0
    assert sum_of("plain", "plain 5\n") == 5

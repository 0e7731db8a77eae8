from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ambimesh.lab.controller.deployments import TEMPLATE_LABEL, plan_pods, template_hash
from ambimesh.lab.controller.garbage import orphans
from ambimesh.lab.controller.tokens import KNOWN_FILE, NODES_FILE, AccountTokens, token_of
from resources.base import Condition, ObjectMeta, OwnerReference
from resources.deployment import DeploymentSpec, PodTemplate
from resources.network import ServiceSpec
from resources.object_set import ObjectSet
from resources.objects import Deployment, ObjectKey, Pod, Service, ServiceAccount
from resources.pod import Container, PodSpec, PodStatus
from resources.security import WorkloadSelector

READY = PodStatus(phase="Running", conditions=(Condition(type="Ready", status="True"),))


def deployment(replicas: int = 2, command: str = "a") -> Deployment:
    template = PodTemplate(
        metadata=ObjectMeta(labels={"app": "web"}, annotations={"note": "x"}),
        spec=PodSpec(containers=(Container(name="c", command=(command,)),)),
    )
    spec = DeploymentSpec(selector=WorkloadSelector(match_labels={"app": "web"}), template=template, replicas=replicas)
    return Deployment(metadata=ObjectMeta(name="web", namespace="shop", uid="u1"), spec=spec)


class Cluster:
    """Pods that follow what is planned; new ones become ready when told."""

    def __init__(self) -> None:
        self.pods: dict[ObjectKey, Pod] = {}

    def step(self, wanted: Deployment) -> bool:
        made, gone = plan_pods([wanted], self.pods.values())
        for key in gone:
            del self.pods[key]
        for pod in made:
            assert pod.key not in self.pods
            self.pods[pod.key] = pod
        return bool(made or gone)

    def become_ready(self, count: int) -> None:
        for key, pod in sorted(self.pods.items()):
            if not pod.status.ready and count:
                self.pods[key] = msgspec.structs.replace(pod, status=READY)
                count -= 1

    @property
    def ready(self) -> int:
        return sum(pod.status.ready for pod in self.pods.values())


def test_pods_are_made_of_the_template_and_owned() -> None:
    wanted = deployment()
    made, gone = plan_pods([wanted], [])
    assert gone == []
    assert len({pod.metadata.name for pod in made}) == 2
    pod = made[0]
    assert pod.metadata.namespace == "shop"
    assert pod.metadata.labels == {"app": "web", TEMPLATE_LABEL: template_hash(wanted)}
    assert pod.metadata.annotations == {"note": "x"}
    assert pod.metadata.owner_references[0].uid == "u1"
    assert pod.spec == wanted.spec.template.spec


def test_enough_is_enough() -> None:
    wanted = deployment()
    made, _ = plan_pods([wanted], [])
    assert plan_pods([wanted], made) == ([], [])


def test_scaling_down_takes_those_that_are_not_ready_first() -> None:
    cluster = Cluster()
    cluster.step(deployment(3))
    cluster.become_ready(1)
    cluster.step(deployment(1))
    assert cluster.ready == 1
    assert len(cluster.pods) == 1


def test_ended_pods_are_replaced_and_foreign_ones_left_alone() -> None:
    wanted = deployment(1)
    (pod,), _ = plan_pods([wanted], [])
    ended = msgspec.structs.replace(pod, status=PodStatus(phase="Failed"))
    foreign = Pod(metadata=ObjectMeta(name="other", namespace="shop", labels={"app": "web"}), spec=pod.spec)
    made, gone = plan_pods([wanted], [ended, foreign])
    assert gone == [ended.key]
    assert len(made) == 1
    assert made[0].key != ended.key


@given(st.integers(1, 5), st.lists(st.integers(0, 2), max_size=30))
def test_a_rollout_never_has_fewer_ready_pods_and_ends(replicas: int, readiness: list[int]) -> None:
    cluster = Cluster()
    cluster.step(deployment(replicas, "old"))
    cluster.become_ready(replicas)
    new = deployment(replicas, "new")
    for count in [*readiness, *[1] * (replicas + 1)]:
        cluster.step(new)
        assert cluster.ready >= replicas
        assert len(cluster.pods) <= 2 * replicas
        cluster.become_ready(count)
    while cluster.step(new):
        pass
    assert {pod.metadata.labels[TEMPLATE_LABEL] for pod in cluster.pods.values()} == {template_hash(new)}
    assert cluster.ready == len(cluster.pods) == replicas


def owned(name: str, kind: str, uid: str) -> Service:
    owner = OwnerReference(api_version="v1", kind=kind, name="o", uid=uid)
    return Service(
        metadata=ObjectMeta(name=name, namespace="shop", uid=name, owner_references=(owner,)), spec=ServiceSpec()
    )


def test_what_nobody_owns_any_more_goes() -> None:
    owner = Service(metadata=ObjectMeta(name="o", namespace="shop", uid="u1"), spec=ServiceSpec())
    objects = ObjectSet([owner, owned("kept", "Service", "u1"), owned("gone", "Service", "u2"),
                         owned("foreign", "CronJob", "u3")])
    assert orphans(objects) == [ObjectKey("Service", "shop", "gone")]


def account(name: str) -> ServiceAccount:
    return ServiceAccount(metadata=ObjectMeta(name=name, namespace="shop"))


def test_every_account_has_a_token_that_the_operator_knows_the_hash_of(tmp_path: Path) -> None:
    (tmp_path / NODES_FILE).write_text(yaml.safe_dump({"tokens": [{"sha256": "0" * 64, "node": "node1"}]}))
    tokens = AccountTokens(tmp_path)
    tokens.update([account("a"), account("b")])
    path = token_of(tmp_path, "shop", "a")
    assert path.stat().st_mode & 0o077 == 0
    secret = path.read_text()

    def known() -> list[dict[str, str]]:
        entries: list[dict[str, str]] = yaml.safe_load((tmp_path / KNOWN_FILE).read_text())["tokens"]
        return entries

    assert known()[0]["node"] == "node1"
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert {"sha256": digest, "namespace": "shop", "service_account": "a"} in known()
    AccountTokens(tmp_path).update([account("a")])
    assert path.read_text() == secret
    assert [entry.get("service_account") for entry in known()] == [None, "a"]
    assert not token_of(tmp_path, "shop", "b").exists()


def test_a_lab_without_the_mesh_has_no_tokens(tmp_path: Path) -> None:
    AccountTokens(tmp_path).update([account("a")])
    assert list(tmp_path.iterdir()) == []

"""The pods of Deployments. Pure.

A change of the template is rolled out as Kubernetes' default strategy does with small numbers: pods of the new
template come first, and one of the old goes for each new one that is ready, so there are never fewer ready ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from resources.base import ObjectMeta, OwnerReference
from resources.objects import Deployment, ObjectKey, Pod

TEMPLATE_LABEL = "pod-template-hash"


def plan_pods(deployments: Iterable[Deployment], pods: Iterable[Pod]) -> tuple[list[Pod], list[ObjectKey]]:
    """The pods to make, and those to delete.

    Args:
        deployments: all of them.
        pods: all pods; those of no Deployment are left alone.
    """
    owned: dict[str, list[Pod]] = {}
    for pod in pods:
        owner = next((each for each in pod.metadata.owner_references if each.kind == "Deployment"), None)
        if owner is not None:
            owned.setdefault(owner.uid, []).append(pod)
    made: list[Pod] = []
    gone: list[ObjectKey] = []
    for deployment in deployments:
        create, delete = _of_one(deployment, owned.get(deployment.metadata.uid, []))
        made += create
        gone += delete
    return made, gone


def template_hash(deployment: Deployment) -> str:
    """Equal templates have equal hashes."""
    return hashlib.blake2b(msgspec.json.encode(deployment.spec.template), digest_size=5).hexdigest()


def _of_one(deployment: Deployment, pods: list[Pod]) -> tuple[list[Pod], list[ObjectKey]]:
    digest, replicas = template_hash(deployment), deployment.spec.number
    gone = [pod.key for pod in pods if pod.status.ended]
    alive = [pod for pod in pods if not pod.status.ended and pod.metadata.deletion_timestamp is None]
    current = [pod for pod in alive if pod.metadata.labels.get(TEMPLATE_LABEL) == digest]
    old = [pod for pod in alive if pod not in current]
    # The last to become ready, and the youngest, go first.
    current.sort(key=lambda pod: (not pod.status.ready, pod.metadata.creation_timestamp or "", pod.key))
    gone += [pod.key for pod in current[replicas:]]
    ready = sum(pod.status.ready for pod in current[:replicas])
    spare = len(old) + ready - replicas
    old.sort(key=lambda pod: (pod.status.ready, pod.key))
    gone += [pod.key for pod in old[: max(0, spare)]]
    taken = {pod.metadata.name for pod in pods}
    names = (f"{deployment.metadata.name}-{digest}-{index}" for index in range(len(pods) + replicas))
    free = [name for name in names if name not in taken]
    return [_pod(deployment, digest, name) for name in free[: max(0, replicas - len(current))]], gone


def _pod(deployment: Deployment, digest: str, name: str) -> Pod:
    template, metadata = deployment.spec.template, deployment.metadata
    owner = OwnerReference(
        api_version=deployment.api_version, kind="Deployment", name=metadata.name, uid=metadata.uid, controller=True
    )
    return Pod(
        metadata=ObjectMeta(
            name=name,
            namespace=metadata.namespace,
            labels={**template.metadata.labels, TEMPLATE_LABEL: digest},
            annotations=template.metadata.annotations,
            owner_references=(owner,),
        ),
        spec=template.spec,
    )

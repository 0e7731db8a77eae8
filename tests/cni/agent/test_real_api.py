"""The node agent's source of pods on a real API server, with the rights that are listed for it and no others."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import trio

from cni.agent.api_pods import ApiPods
from cni.pod import PodName
from controlplane.kube.permissions import AGENT_CLUSTER
from resources.kube.credentials_driver import ApiSettings
from tests.e2e.kit.control_plane import ControlPlane

pytestmark = pytest.mark.kubernetes

GROUP = "rbac.authorization.k8s.io"


def prepare(plane: ControlPlane, namespace: str) -> None:
    name = f"agent-{namespace}"
    rules = [
        {"apiGroups": [rule.group], "resources": list(rule.resources), "verbs": list(rule.verbs)}
        for rule in AGENT_CLUSTER
    ]
    subject = {"kind": "ServiceAccount", "name": "default", "namespace": namespace}
    role = {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}
    binding: dict[str, Any] = {"apiVersion": f"{GROUP}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name}}
    binding |= {"roleRef": reference, "subjects": [subject]}
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": pod, "namespace": namespace},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}]},
        }
        for pod, node in (("here", "node1"), ("there", "node2"))
    ]
    manifest = {"apiVersion": "v1", "kind": "List", "items": [role, binding, *pods]}
    plane.kubectl("apply", "-f", "-", manifest=json.dumps(manifest))


async def test_pods_of_the_node_are_known_and_annotated(
    kubernetes_api: ControlPlane, kubernetes_namespace: str
) -> None:
    plane, namespace = kubernetes_api, kubernetes_namespace
    await trio.to_thread.run_sync(prepare, plane, namespace)
    token = await trio.to_thread.run_sync(plane.token, namespace, "default")
    kubeconfig = plane.kubeconfig_with_token(f"agent-{namespace}", token)
    source = ApiPods(ApiSettings(kubeconfig=kubeconfig), "node1")
    async with trio.open_nursery() as nursery:
        with trio.fail_after(30):
            await nursery.start(source.run)
        view = source.view
        assert view.complete
        assert namespace in view.namespaces
        assert {name for name in view.pods if name.namespace == namespace} == {PodName(namespace, "here")}
        pod = view.pods[PodName(namespace, "here")]

        def annotation() -> str:
            path = r"jsonpath={.metadata.annotations.ambimesh\.dev/x}"
            return plane.kubectl("get", "pod", "here", "-n", namespace, "-o", path)

        await source.annotate(pod, "ambimesh.dev/x", "one")
        assert await trio.to_thread.run_sync(annotation) == "one"
        with trio.fail_after(30):
            while source.view.pods[pod.key].annotations.get("ambimesh.dev/x") != "one":
                await source.changed(source.view.serial)
        # A pod of the same name that is another one is left alone.
        await source.annotate(replace(pod, uid="5f3c3d3e-0000-4000-8000-000000000000"), "ambimesh.dev/x", "two")
        await source.annotate(replace(pod, name="gone"), "ambimesh.dev/x", "two")
        assert await trio.to_thread.run_sync(annotation) == "one"
        await source.annotate(pod, "ambimesh.dev/x", None)
        assert await trio.to_thread.run_sync(annotation) == ""

        def told() -> str:
            fields = "--field-selector=involvedObject.kind=Node,involvedObject.name=node1"
            return plane.kubectl("get", "events", "-n", "default", fields, "-o", "jsonpath={.items[*].message}")

        source.tell_node("CniConfigurationUnusable", f"broken in {namespace}")
        with trio.fail_after(30):
            while f"broken in {namespace}" not in await trio.to_thread.run_sync(told):  # noqa: ASYNC110
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()

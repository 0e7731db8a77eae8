"""A cluster as tests get it: real pods on real nodes do what pods do everywhere."""

from __future__ import annotations

import functools
import http.client
import json

import pytest

from tests.e2e.kit import build, mesh_images
from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.control_plane import KubectlFailed
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import PROBES, Client, apply, job, pod, probed, start_web, stateful, wait_ready, web_pods

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(cluster: Cluster, cluster_namespace: str) -> Client:
    """On node 1, in a namespace with the server on both nodes."""
    start_web(cluster, cluster_namespace)
    return Client(cluster, cluster_namespace)


def test_pods_reach_pods_of_every_node(cluster: Cluster, client: Client) -> None:
    found = web_pods(cluster, client.namespace)
    assert set(found) == {"node1", "node2"}
    own = cluster.objects("pod", "client", f"--namespace={client.namespace}")[0]["status"]["podIP"]
    for each in found.values():
        address = each["status"]["podIP"]
        said = client.get(f"http://{address}:8080/")
        assert (said["pod"], said["peer"]) == (each["metadata"]["name"], own)
        assert client.echo(address) == "over the wire"


def test_a_service_is_known_by_its_name(cluster: Cluster, client: Client) -> None:
    pods = {each["metadata"]["name"] for each in web_pods(cluster, client.namespace).values()}
    names = ("web", f"web.{client.namespace}", f"web.{client.namespace}.svc.cluster.local")
    answered = {client.get(f"http://{names[turn % 3]}/")["pod"] for turn in range(24)}
    assert answered == pods


def test_probes_of_every_kind_tell_ready_from_not(cluster: Cluster, client: Client) -> None:
    namespace = f"--namespace={client.namespace}"
    names = {kind: (f"{kind}-good", f"{kind}-bad") for kind in PROBES}
    for kind, probes in PROBES.items():
        apply(cluster, client.namespace, *(probed(*each) for each in zip(names[kind], probes, strict=True)))
    wait_ready(cluster, client.namespace, *(good for good, _ in names.values()))

    def refused(bad: str) -> None:
        assert "Readiness probe failed" in cluster.kubectl(
            "get", "events", namespace, f"--field-selector=involvedObject.name={bad}"
        )

    for _, bad in names.values():
        eventually(functools.partial(refused, bad), seconds=60)
        (found,) = cluster.objects("pod", bad, namespace)
        ready = {each["type"]: each["status"] for each in found["status"]["conditions"]}["Ready"]
        assert (found["status"]["phase"], ready) == ("Running", "False")
    cluster.kubectl("delete", namespace, "pod", *(name for both in names.values() for name in both), "--now")


def test_a_container_that_is_not_alive_is_restarted(cluster: Cluster, client: Client) -> None:
    namespace = f"--namespace={client.namespace}"
    ailing = pod("ailing", ["sh", "-c", "touch /tmp/alive; exec sleep infinity"])
    probe = {"exec": {"command": ["test", "-e", "/tmp/alive"]}, "periodSeconds": 1, "failureThreshold": 2}
    ailing["spec"]["containers"][0]["livenessProbe"] = probe
    apply(cluster, client.namespace, ailing)
    wait_ready(cluster, client.namespace, "ailing")
    cluster.kubectl("exec", namespace, "ailing", "--", "rm", "/tmp/alive")

    def restarted() -> None:
        (found,) = cluster.objects("pod", "ailing", namespace)
        (container,) = found["status"]["containerStatuses"]
        assert container["restartCount"] >= 1
        assert container["ready"]

    eventually(restarted, seconds=100)
    cluster.kubectl("delete", namespace, "pod", "ailing", "--now")


def test_commands_are_run_in_pods_with_their_status_and_input(cluster: Cluster, client: Client) -> None:
    assert client.run("hostname") == "client\n"
    with pytest.raises(KubectlFailed, match="exit code 7"):
        client.run("sh", "-c", "exit 7")
    into = ("exec", f"--namespace={client.namespace}", "--stdin", "client", "--", "cat")
    assert cluster.kubectl(*into, manifest="passed on") == "passed on"


def test_logs_are_what_a_pod_says(cluster: Cluster, client: Client) -> None:
    for found in web_pods(cluster, client.namespace).values():
        name = found["metadata"]["name"]
        assert cluster.kubectl("logs", f"--namespace={client.namespace}", name) == "serving\n"


def test_a_port_is_forwarded(cluster: Cluster, client: Client) -> None:
    name = web_pods(cluster, client.namespace)["node2"]["metadata"]["name"]
    arguments = ("port-forward", f"--namespace={client.namespace}", f"pod/{name}", "18080:8080")
    forwarding = cluster.start("port-forward", build.program("kubectl"), *arguments)
    try:
        forwarding.wait_until(lambda: "Forwarding from" in forwarding.tail(), 30)
        with cluster.network.entered():
            connection = http.client.HTTPConnection("127.0.0.1", 18080, timeout=10)
            connection.request("GET", "/forwarded")
            said = json.loads(connection.getresponse().read())
            connection.close()
        assert (said["pod"], said["path"]) == (name, "/forwarded")
    finally:
        forwarding.stop()


def test_a_job_ends(cluster: Cluster, client: Client) -> None:
    namespace = f"--namespace={client.namespace}"
    apply(cluster, client.namespace, job("asking", client.asking("http://web/job")))
    cluster.kubectl("wait", namespace, "--for=condition=Complete", "job/asking", "--timeout=100s")
    said = cluster.kubectl("logs", namespace, "--selector=job-name=asking")
    assert said.count('"path": "/job"') == 2


def test_pods_of_a_stateful_set_are_known_by_name(cluster: Cluster, client: Client) -> None:
    namespace = f"--namespace={client.namespace}"
    apply(cluster, client.namespace, *stateful("store"))
    cluster.rolled_out("statefulset/store", namespace)

    def answers(name: str) -> None:
        assert client.get(f"http://{name}.store:8080/")["pod"] == name

    for name in ("store-0", "store-1"):
        # CoreDNS keeps a name's absence for five seconds.
        eventually(functools.partial(answers, name), during=KubectlFailed)
    # The same name after its pod was replaced, though at another address.
    cluster.kubectl("delete", namespace, "pod", "store-1", "--now")
    cluster.rolled_out("statefulset/store", namespace)
    eventually(functools.partial(answers, "store-1"), during=KubectlFailed)
    cluster.kubectl("delete", namespace, "statefulset/store", "service/store")


IMPORTS = {
    "operator": "controlplane.__main__",
    "agent": "cni.__main__, bcc, ebpf.programs_driver",
    "ztunnel": "ztunnel.__main__",
    "waypoint": "waypoint.__main__",
}


@pytest.mark.parametrize("component", mesh_images.MESH_COMPONENTS)
def test_the_images_of_the_mesh_run(component: str, cluster: Cluster, client: Client) -> None:
    """Their interpreter finds the component's package and all that it stands on."""
    namespace, name = f"--namespace={client.namespace}", f"image-{component}"
    trial = pod(name, ["python", "-c", f"import {IMPORTS[component]}; print('found')"])
    trial["spec"]["containers"][0]["image"] = mesh_images.mesh_image(component)
    trial["spec"]["restartPolicy"] = "Never"
    apply(cluster, client.namespace, trial)

    def phase() -> str:
        (found,) = cluster.objects("pod", name, namespace)
        assert found["status"]["phase"] in ("Succeeded", "Failed"), found["status"]
        return str(found["status"]["phase"])

    assert (eventually(phase, seconds=100), cluster.kubectl("logs", namespace, name)) == ("Succeeded", "found\n")

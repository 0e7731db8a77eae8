"""A control plane as tests get it: it stores, refuses, watches and authenticates as any other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tests.e2e.kit import build, versions
from tests.e2e.kit.control_plane import ControlPlane, KubectlFailed, Wish, running_control_plane
from tests.e2e.kit.processes import NotServing
from tests.e2e.kit.waiting import eventually

pytestmark = pytest.mark.kubernetes

ROOT = Path(__file__).parents[2]
WIDGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.ambimesh.dev}
spec:
  group: test.ambimesh.dev
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {size: {type: integer}}
            x-kubernetes-validations: [{rule: "self.size < 10", message: "too large"}]
"""


def widget(size: int) -> str:
    return f"{{apiVersion: test.ambimesh.dev/v1, kind: Widget, metadata: {{name: w}}, spec: {{size: {size}}}}}"


def pod(name: str, service_account: str = "default") -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"serviceAccountName": service_account, "containers": [{"name": "c", "image": "none"}]},
        }
    )


def test_it_says_which_version_it_is(kubernetes_api: ControlPlane) -> None:
    found = json.loads(kubernetes_api.kubectl("version", "--output=json"))
    assert found["serverVersion"]["gitVersion"] == found["clientVersion"]["gitVersion"] == versions.KUBERNETES


def test_kinds_can_be_defined_and_are_validated(kubernetes_api: ControlPlane, kubernetes_namespace: str) -> None:
    kubernetes_api.kubectl("apply", "-f", "-", manifest=WIDGETS)
    kubernetes_api.kubectl("wait", "--for=condition=Established", "crd/widgets.test.ambimesh.dev")
    namespace = f"--namespace={kubernetes_namespace}"
    kubernetes_api.kubectl("apply", namespace, "-f", "-", manifest=widget(9))
    with pytest.raises(KubectlFailed, match="too large"):
        kubernetes_api.kubectl("apply", namespace, "-f", "-", manifest=widget(10))
    server_side = ("apply", namespace, "--server-side", "-f", "-")
    kubernetes_api.kubectl(*server_side, "--field-manager=one", "--force-conflicts", manifest=widget(7))
    with pytest.raises(KubectlFailed, match="conflict"):
        kubernetes_api.kubectl(*server_side, "--field-manager=other", manifest=widget(8))


@pytest.mark.parametrize("initial", ["resourceVersion=0", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan"])
def test_changes_are_watched(kubernetes_api: ControlPlane, kubernetes_namespace: str, initial: str) -> None:
    """Both the plain watch and the one that begins with a list; bookmarks in either need a recent etcd."""
    url = f"/api/v1/namespaces/{kubernetes_namespace}/pods?watch=1&allowWatchBookmarks=true&timeoutSeconds=4&{initial}"
    events: list[str] = []
    watch = threading.Thread(target=lambda: events.append(kubernetes_api.kubectl("get", "--raw", url)))
    watch.start()
    namespace = f"--namespace={kubernetes_namespace}"
    kubernetes_api.kubectl("create", namespace, "-f", "-", manifest=pod("watched"))
    kubernetes_api.kubectl(
        "patch", namespace, "pod", "watched", "--subresource=status", "--patch", '{"status": {"podIP": "10.244.1.2"}}'
    )
    watch.join()
    seen = [json.loads(line) for line in events[0].splitlines()]
    about = [event for event in seen if event["object"]["metadata"].get("name") == "watched"]
    assert about[-1]["object"]["status"]["podIP"] == "10.244.1.2"
    assert {event["type"] for event in about} <= {"ADDED", "MODIFIED"}


def test_a_user_may_do_what_rbac_says(kubernetes_api: ControlPlane, kubernetes_namespace: str) -> None:
    somebody = kubernetes_api.kubeconfig_of("somebody", ["readers"])
    get = ("get", "configmaps", f"--namespace={kubernetes_namespace}")
    with pytest.raises(KubectlFailed, match="Forbidden"):
        kubernetes_api.kubectl(*get, kubeconfig=somebody)
    create = ("create", f"--namespace={kubernetes_namespace}")
    # The roles that clusters come with are filled by a controller, which is not here.
    kubernetes_api.kubectl(*create, "role", "reader", "--verb=get,list", "--resource=configmaps")
    kubernetes_api.kubectl(*create, "rolebinding", "readers", "--role=reader", "--group=readers")
    eventually(lambda: kubernetes_api.kubectl(*get, kubeconfig=somebody), during=KubectlFailed)


def test_tokens_are_bound_to_pods(kubernetes_api: ControlPlane, kubernetes_namespace: str) -> None:
    kubernetes_api.kubectl("create", f"--namespace={kubernetes_namespace}", "-f", "-", manifest=pod("caller"))
    token = kubernetes_api.token(
        kubernetes_namespace, "default", "--audience=mesh", "--bound-object-kind=Pod", "--bound-object-name=caller"
    )

    def review(audience: str) -> dict[str, object]:
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        answer = kubernetes_api.kubectl("create", "-f", "-", "--output=json", manifest=json.dumps(asked))
        status: dict[str, object] = json.loads(answer)["status"]
        return status

    user = review("mesh")["user"]
    assert isinstance(user, dict)
    assert user["username"] == f"system:serviceaccount:{kubernetes_namespace}:default"
    assert user["extra"]["authentication.kubernetes.io/pod-name"] == ["caller"]
    assert not review("another").get("authenticated")


def test_a_token_is_a_login(kubernetes_api: ControlPlane, kubernetes_namespace: str) -> None:
    kubeconfig = kubernetes_api.kubeconfig_with_token("token", kubernetes_api.token(kubernetes_namespace, "default"))
    said = kubernetes_api.kubectl("auth", "whoami", "--output=json", kubeconfig=kubeconfig)
    assert json.loads(said)["status"]["userInfo"]["username"].endswith(f":{kubernetes_namespace}:default")


def test_controllers_make_accounts_and_collect_orphans(kubernetes_controllers: ControlPlane) -> None:
    plane = kubernetes_controllers
    plane.kubectl("create", "namespace", "made")
    plane.kubectl("wait", "--namespace=made", "--for=create", "serviceaccount/default", "--timeout=30s")
    plane.kubectl("create", "configmap", "owner", "--namespace=made")
    uid = plane.kubectl("get", "configmap", "owner", "--namespace=made", "--output=jsonpath={.metadata.uid}")
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}
    owned = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owned", "ownerReferences": [owner]}}
    plane.kubectl("create", "--namespace=made", "-f", "-", manifest=json.dumps(owned))
    plane.kubectl("delete", "configmap", "owner", "--namespace=made")
    plane.kubectl("wait", "--namespace=made", "--for=delete", "configmap/owned", "--timeout=30s")


def test_the_api_server_goes_and_comes_back_with_its_data() -> None:
    with running_control_plane() as plane:
        plane.kubectl("create", "namespace", "kept")
        plane.stop_api_server()
        with pytest.raises(KubectlFailed, match="refused"):
            plane.kubectl("get", "namespaces")
        plane.start_api_server()
        assert "kept" in plane.kubectl("get", "namespaces")
        folder = plane.folder
    assert not folder.exists()


def test_a_program_that_ends_is_told_with_its_log() -> None:
    wish = Wish(api_arguments=["--no-such-flag"])
    said = r"(?s)kube-apiserver ended with status 1.*unknown flag: --no-such-flag"
    with pytest.raises(NotServing, match=said), running_control_plane(wish):
        pytest.fail("started")


def test_nothing_runs_on_when_the_session_is_killed(tmp_path: Path) -> None:
    """What no ``finally`` can do, the kernel does."""
    script = textwrap.dedent(
        """
        import sys, time
        from tests.e2e.kit.control_plane import running_control_plane
        with running_control_plane() as plane:
            print(plane.folder, flush=True)
            time.sleep(600)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as session:
        assert session.stdout is not None
        folder = session.stdout.readline().strip()
        assert len(_using(folder)) == 2
        session.send_signal(signal.SIGKILL)

    def nothing_runs() -> None:
        assert _using(folder) == []

    eventually(nothing_runs)


def _using(folder: str) -> list[str]:
    """Running processes that have the folder in their arguments."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if folder.encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
        except OSError:
            continue  # it has just ended
    return found


def test_all_programs_are_there() -> None:
    assert [name for name in build.KUBERNETES_PROGRAMS if not build.program(name).is_file()] == []

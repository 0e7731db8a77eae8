"""The real agent process with real programs, namespaces, plugin and ZDS; the test plays runtime and ztunnel."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from cni.agent import app, caller_roles
from cni.agent.namespace_finder import NamespaceFinder, NamespaceUnknown, WrongNamespace, addresses_in
from cni.pod import PodFacts
from ebpf.layout import ROLE_KUBELET
from ebpf.maps import PinnedMap
from mesh.addresses import IPV6_LOOPBACK, parse_ip
from mesh.errors import ConfigurationError, EnvironmentLacks
from mesh.netns import NetworkNamespace
from mesh.zds.client_driver import run_zds_client
from mesh.zds.codec import WorkloadInfo
from resources.objects import Pod

pytestmark = pytest.mark.root


class PaperZtunnel:
    """Acknowledges and notes."""

    def __init__(self) -> None:
        self.served: dict[str, tuple[WorkloadInfo, int]] = {}
        self.named: set[str] = set()
        self.snapshots = 0
        self.disconnections = 0

    async def add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        self.served[uid] = (info, namespace.inode)
        self.named.add(uid)
        namespace.close()

    async def keep(self, uid: str) -> None:
        if uid not in self.served:
            raise EnvironmentLacks(f"{uid} is not served here")
        self.named.add(uid)

    async def delete(self, uid: str) -> None:
        self.served.pop(uid, None)

    async def snapshot_sent(self) -> None:
        self.snapshots += 1
        self.served = {uid: value for uid, value in self.served.items() if uid in self.named}

    def disconnected(self) -> None:
        self.disconnections += 1
        self.named.clear()


@asynccontextmanager
async def ztunnel(node: Any, handler: PaperZtunnel | None = None) -> AsyncIterator[PaperZtunnel]:
    handler = handler or PaperZtunnel()
    before = handler.snapshots
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_zds_client, node.folder / "ztunnel.sock", handler)
        await eventually(lambda: handler.snapshots > before)
        yield handler
        nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.02)


def reaches(node: Any) -> bool:
    """Whether a new connection from client to server works; refused is the other possibility."""
    try:
        node.pods["client"].connect(node.pods["server"].address).close()
    except ConnectionRefusedError:
        return False
    return True


async def test_a_pod_is_enrolled_before_it_starts_and_freed_when_it_goes(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.label("ambient")
    agent_node.show_pod("client", addresses=False)
    client = agent_node.pods["client"]
    async with ztunnel(agent_node) as served:
        status, result = await agent_node.plug("ADD", "client")
        assert (status, result["ips"][0]["address"]) == (0, "10.244.1.2/24")
        assert served.served == {client.uid: (WorkloadInfo("client", "shop", "client"), client.namespace.inode)}
        assert agent_node.captured() == {client.uid: client.namespace.cookie()}
        assert agent_node.annotation("client") == "enabled"
        # Captured, and nobody listens for ztunnel in the pod: refused, not sent in clear.
        assert not reaches(agent_node)
        assert (await agent_node.plug("CHECK", "client"))[0] == 0
        assert (await agent_node.plug("DEL", "client"))[0] == 0
        assert (agent_node.captured(), served.served) == ({}, {})
    page = agent_node.get("/metrics")[1]
    assert 'istio_cni_plugin_requests_total{code="0",command="ADD"} 1.0' in page
    assert "istio_cni_install_ready 1.0" in page
    assert 'istio_cni_installs_total{result="SUCCESS"} 1.0' in page
    assert 'ambimesh_ebpf_events_total{reason="outbound_captured"} 1.0' in page
    assert 'ambimesh_ebpf_map_capacity{map="tickets"} 8192.0' in page


async def test_its_readiness_says_what_is_wrong_with_the_nodes_cni(agent_node: Any) -> None:
    agent_node.start_agent()
    place = agent_node.net_d / "10-net.conflist"
    whole = place.read_text()
    place.write_text(whole[:-9])
    await eventually(lambda: agent_node.get("/healthz/ready")[0] == 503)
    assert f"the CNI plugin is not installed: {place}: not JSON" in agent_node.get("/healthz/ready")[1]
    place.write_text(whole)
    await eventually(lambda: agent_node.get("/healthz/ready")[0] == 200)


async def test_many_pods_leave_no_descriptor_behind(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.label("ambient")
    agent_node.show_pod("client", addresses=False)

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{agent_node.agent.pid}/fd"))

    async with ztunnel(agent_node):
        counts = []
        for _ in range(6):
            assert (await agent_node.plug("ADD", "client"))[0] == 0
            assert (await agent_node.plug("ADD", "client", CNI_NETNS="/proc/self/ns/net"))[0] == 1
            assert (await agent_node.plug("DEL", "client"))[0] == 0
            await trio.sleep(0.05)
            counts.append(descriptors())
    assert counts[-1] <= counts[1]


async def test_a_pod_that_is_not_selected_starts_outside(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.show_pod("client")
    assert (await agent_node.plug("ADD", "client"))[0] == 0
    assert (agent_node.captured(), agent_node.annotation("client")) == ({}, None)
    assert reaches(agent_node)


async def test_without_ztunnel_a_pod_must_not_start(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.label("ambient")
    agent_node.show_pod("client", addresses=False)
    status, error = await agent_node.plug("ADD", "client")
    assert (status, error["code"]) == (1, 11)
    assert "ztunnel is not connected" in error["msg"]
    assert agent_node.captured() == {}


async def test_another_pods_namespace_is_refused(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.label("ambient")
    agent_node.show_pod("client", addresses=False)
    async with ztunnel(agent_node) as served:
        status, error = await agent_node.plug("ADD", "client", CNI_NETNS=str(agent_node.pods["server"].path))
        assert (status, error["code"]) == (1, 101)
        assert "does not hold 10.244.1.2 of pod shop/client" in error["msg"]
        status, error = await agent_node.plug("ADD", "client", CNI_NETNS=f"/run/netns/{agent_node.prefix}-node")
        assert (status, error["code"]) == (1, 101)
        assert (agent_node.captured(), served.served) == ({}, {})


async def test_a_label_captures_new_connections_of_a_running_pod_and_spares_old_ones(agent_node: Any) -> None:
    agent_node.run_in("client", ["sleep", "600"])
    agent_node.show_pod("client")
    agent_node.start_agent()
    client = agent_node.pods["client"]
    async with ztunnel(agent_node) as served:
        with client.connect(agent_node.pods["server"].address) as old:
            agent_node.label("ambient")
            await eventually(lambda: agent_node.annotation("client") == "enabled")
            assert served.served[client.uid][1] == client.namespace.inode
            assert not reaches(agent_node)
            old.sendall(b"still here")
            assert old.recv(99) == b"still here"
            agent_node.label(None)
            await eventually(lambda: agent_node.annotation("client") is None)
            assert (agent_node.captured(), served.served) == ({}, {})
            assert reaches(agent_node)
            old.sendall(b"and still")
            assert old.recv(99) == b"and still"


async def test_the_agent_may_be_killed_and_come_back(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.label("ambient")
    agent_node.show_pod("client")
    handler = PaperZtunnel()
    async with ztunnel(agent_node, handler):
        assert (await agent_node.plug("ADD", "client"))[0] == 0
        pins = sorted(entry.stat().st_ino for entry in agent_node.settings.pin_paths.pods.iterdir())
        agent_node.stop_agent(signal.SIGKILL)
        assert not reaches(agent_node)
        # Meanwhile no pod starts.
        status, error = await agent_node.plug("ADD", "server")
        assert (status, error["code"]) == (1, 11)
        assert "does not answer" in error["msg"]
        agent_node.start_agent()
        await eventually(lambda: handler.snapshots == 2)
        # It was never dropped: named in the first snapshot already.
        assert list(handler.served) == [agent_node.pods["client"].uid]
        assert not reaches(agent_node)
        assert sorted(entry.stat().st_ino for entry in agent_node.settings.pin_paths.pods.iterdir()) == pins
        assert (await agent_node.plug("CHECK", "client"))[0] == 0
    # A new ztunnel knows nothing and is told all, with descriptors.
    async with ztunnel(agent_node) as fresh:
        await eventually(lambda: fresh.served.keys() == {agent_node.pods["client"].uid})


async def test_a_label_removed_while_the_agent_was_away_is_seen_at_its_start(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.label("ambient")
    agent_node.show_pod("client")
    async with ztunnel(agent_node):
        assert (await agent_node.plug("ADD", "client"))[0] == 0
        assert agent_node.stop_agent() == 0
        assert not reaches(agent_node)
        agent_node.label(None)
        agent_node.start_agent()
        await eventually(lambda: agent_node.captured() == {} and agent_node.annotation("client") is None)
        assert reaches(agent_node)


async def test_a_pod_that_vanished_while_the_agent_was_away_is_released(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.label("ambient")
    agent_node.show_pod("client")
    async with ztunnel(agent_node):
        assert (await agent_node.plug("ADD", "client"))[0] == 0
        agent_node.stop_agent()
        agent_node.store.delete(Pod, "shop", "client")
        agent_node.start_agent()
        # Its sandbox still exists: until the runtime takes it down, the pod stays captured.
        await trio.sleep(0.3)
        assert agent_node.captured()
        assert (await agent_node.plug("DEL", "client"))[0] == 0
        assert agent_node.captured() == {}


async def test_uninstall_needs_the_agent_gone_and_leaves_nothing(agent_node: Any) -> None:
    agent_node.start_agent()
    agent_node.label("ambient")
    agent_node.show_pod("client")
    async with ztunnel(agent_node):
        assert (await agent_node.plug("ADD", "client"))[0] == 0
        with pytest.raises(ConfigurationError, match="stop it first"):
            await app.uninstall(agent_node.settings)
    assert agent_node.stop_agent(signal.SIGTERM) == 0
    assert agent_node.captured()
    command = [sys.executable, "-m", "cni", "--config", str(agent_node.configuration), "uninstall"]
    await trio.run_process(command)
    assert not agent_node.settings.pin_paths.node_root.exists()
    assert not agent_node.settings.state_directory.exists()
    assert json.loads((agent_node.net_d / "10-net.conflist").read_text())["plugins"] == [{"type": "bridge"}]
    assert not (agent_node.folder / "bin" / "ambimesh-cni").exists()
    assert agent_node.annotation("client") is None
    assert reaches(agent_node)


async def test_a_bad_configuration_is_one_line(agent_node: Any) -> None:
    broken = agent_node.folder / "broken.yaml"
    broken.write_text("node: {name: n, nmae: n}\nsource: {folder: /x}\nbpf: {ztunnel_cgroups: []}\n")
    command = [sys.executable, "-m", "cni", "--config", str(broken)]
    done = await trio.run_process(command, capture_stderr=True, check=False)
    assert done.returncode == 1
    assert b"$.node" in done.stderr
    assert b"Traceback" not in done.stderr
    missing = json.loads(agent_node.configuration.read_text())
    missing["source"]["folder"] = str(agent_node.folder / "nowhere")
    broken.write_text(json.dumps(missing))
    done = await trio.run_process(command, capture_stderr=True, check=False)
    assert (done.returncode, b"nowhere is no folder" in done.stderr) == (1, True)
    assert b"Traceback" not in done.stderr


# -- finding namespaces ------------------------------------------------------------------------------------------------


async def test_addresses_and_proof(agent_node: Any) -> None:
    client, server = agent_node.pods["client"], agent_node.pods["server"]
    finder = NamespaceFinder([])
    held = addresses_in(client.namespace)
    assert {parse_ip("10.244.1.2"), parse_ip("127.0.0.1"), IPV6_LOOPBACK} <= held
    await finder.verify(client.namespace, [parse_ip("10.244.1.2")], "shop/client")
    for wrong in ([parse_ip("10.244.1.2"), parse_ip("10.244.1.3")], []):
        with pytest.raises(WrongNamespace):
            await finder.verify(client.namespace, wrong, "shop/client")
    with pytest.raises(WrongNamespace, match="node's own"):
        await finder.at_path("/proc/self/ns/net")
    with pytest.raises(EnvironmentLacks):
        await finder.at_path("/run/netns/no-such-namespace")
    with await finder.at_path(str(server.path)) as found:
        assert found.inode == server.namespace.inode


async def test_processes_outside_the_pods_namespace_are_passed_over(agent_node: Any) -> None:
    """A runtime's monitor is older than the pod and lives in the node's namespace (or in another pod's)."""
    client, server = agent_node.pods["client"], agent_node.pods["server"]
    finder = NamespaceFinder([str(agent_node.cgroup / "pods" / "{namespace}_{name}")])
    pod = PodFacts(uid="u", namespace="shop", name="client", addresses=(parse_ip(client.address),))
    started: list[subprocess.Popen[bytes]] = []
    try:
        for arguments in ([], ["nsenter", f"--net={server.path}"], ["nsenter", f"--net={client.path}"]):
            enter = f'echo $$ > {client.cgroup}/cgroup.procs && exec "$@"'
            started.append(subprocess.Popen(["sh", "-c", enter, "sh", *arguments, "sleep", "600"]))  # noqa: ASYNC220
            await trio.sleep(0.05)
        await trio.sleep(0.2)
        with await finder.of_processes(pod) as found:
            assert found.inode == client.namespace.inode
        last = started.pop()
        last.kill()
        last.wait()
        other = PodFacts(uid="u", namespace="shop", name="client", addresses=(parse_ip("10.244.1.77"),))
        with pytest.raises(NamespaceUnknown, match=r"does not hold 10\.244\.1\.77"):
            await finder.of_processes(other)
    finally:
        for process in started:
            process.kill()
            process.wait()
    nobody = PodFacts(uid="u", namespace="no*", name="../pod", addresses=(parse_ip(client.address),))
    with pytest.raises(NamespaceUnknown, match="no cgroup matches"):
        await finder.of_processes(nobody)


# -- the callers' cgroups ----------------------------------------------------------------------------------------------


async def test_a_kubelet_whose_cgroup_was_made_anew_is_still_known(agent_node: Any) -> None:
    agent_node.start_agent()
    kubelet = agent_node.cgroup / "kubelet"

    def known() -> set[int]:
        with PinnedMap(agent_node.settings.pin_paths, "caller_roles", ctypes.c_uint64, ctypes.c_uint32) as roles:
            return {key.value for key, role in roles.items() if role.value == ROLE_KUBELET}

    assert caller_roles._INTERVAL <= 1
    first = kubelet.stat().st_ino
    assert known() == {first}
    kubelet.rmdir()
    kubelet.mkdir()
    second = kubelet.stat().st_ino
    assert second != first
    await eventually(lambda: known() == {second})

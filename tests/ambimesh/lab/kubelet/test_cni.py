from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ambimesh.lab.kubelet import cni_plan
from ambimesh.lab.kubelet.cni_plan import Attachment, NetworkList, PodAddress
from ambimesh.lab.kubelet.cni_runner import CniRunner
from mesh.errors import ConfigurationError, InvalidMessage, MeshError

ATTACHMENT = Attachment(
    container_id="lab-1", netns="/run/netns/lab-a-b", interface="eth0", namespace="a", pod="b", uid="1",
    plugin_folders=("/one", "/two"),
)  # fmt: skip
NETWORK = NetworkList("lab", "1.0.0", ({"type": "bridge", "bridge": "cni0"}, {"type": "ambimesh-cni"}))
RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.244.1.2/24"}, {"address": "fd00::2/64"}]}


def config(call: cni_plan.PluginCall) -> dict[str, Any]:
    return dict(msgspec.json.decode(call.stdin))


def test_the_first_usable_file_by_name_is_the_network() -> None:
    files = {
        "00-broken.conflist": b"{",
        "05-note.txt": b"",
        "10-lab.conflist": json.dumps({"name": "lab", "cniVersion": "1.0.0", "plugins": [{"type": "bridge"}]}).encode(),
        "20-other.conf": json.dumps({"name": "other", "type": "ptp"}).encode(),
    }
    assert cni_plan.choose_network(files).name == "lab"
    del files["10-lab.conflist"]
    other = cni_plan.choose_network(files)
    assert [plugin["type"] for plugin in other.plugins] == ["ptp"]


def test_without_a_usable_file_all_faults_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"a\.conf: not a network.*b\.conf: not JSON"):
        cni_plan.choose_network({"a.conf": b"{}", "b.conf": b"{"})


def test_a_plugin_may_not_be_named_by_a_path() -> None:
    with pytest.raises(InvalidMessage):
        cni_plan.read_network(b'{"name": "x", "plugins": [{"type": "../../bin/sh"}]}')


def test_each_plugin_gets_its_part_and_the_result_before_it() -> None:
    first = cni_plan.add_call(NETWORK, 0, ATTACHMENT, None)
    assert config(first) == {"type": "bridge", "bridge": "cni0", "name": "lab", "cniVersion": "1.0.0"}
    second = cni_plan.add_call(NETWORK, 1, ATTACHMENT, RESULT)
    assert config(second)["prevResult"] == RESULT
    assert second.environment["CNI_COMMAND"] == "ADD"
    assert second.environment["CNI_PATH"] == "/one:/two"
    assert second.environment["CNI_ARGS"] == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_INFRA_CONTAINER_ID=lab-1;K8S_POD_UID=1"
    )


def test_deletion_runs_backwards_and_checks_forwards() -> None:
    deletions = cni_plan.delete_calls(NETWORK, ATTACHMENT, RESULT)
    assert [(call.plugin, call.environment["CNI_COMMAND"]) for call in deletions] == [
        ("ambimesh-cni", "DEL"),
        ("bridge", "DEL"),
    ]
    assert all(config(call)["prevResult"] == RESULT for call in deletions)
    assert [call.plugin for call in cni_plan.check_calls(NETWORK, ATTACHMENT, RESULT)] == ["bridge", "ambimesh-cni"]


def test_addresses_of_a_result() -> None:
    assert [address.ip for address in cni_plan.addresses(RESULT)] == ["10.244.1.2", "fd00::2"]
    with pytest.raises(InvalidMessage, match="no address"):
        cni_plan.addresses({"ips": []})


def test_a_failed_plugin_is_quoted() -> None:
    failure = b'{"code": 11, "msg": "try again", "details": "agent away"}'
    assert cni_plan.read_failure("p", 1, failure, b"") == "CNI plugin p: code 11: try again (agent away)"
    assert cni_plan.read_failure("p", 2, b"", b"boom\n") == "CNI plugin p ended with 2: boom"


PLUGIN = """#!/bin/sh
config=$(cat)
echo "$CNI_COMMAND {name} $config" >> {log}
if [ "$CNI_COMMAND" = ADD ]; then {add}; fi
"""


def make_plugin(folder: Path, name: str, add: str) -> None:
    plugin = folder / name
    plugin.write_text(PLUGIN.format(name=name, log=folder / "log", add=add))
    plugin.chmod(0o755)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node with a network of two plugins, made of shell scripts."""
    (tmp_path / "net.d").mkdir()
    (tmp_path / "pod").mkdir()
    plugins = [{"type": "first"}, {"type": "second"}]
    (tmp_path / "net.d" / "10.conflist").write_text(
        json.dumps({"name": "n", "cniVersion": "1.0.0", "plugins": plugins})
    )
    make_plugin(tmp_path, "first", f"echo '{json.dumps(RESULT)}'")
    make_plugin(tmp_path, "second", f"echo '{json.dumps(RESULT)}'")
    return tmp_path


def commands(node: Path) -> list[str]:
    return [" ".join(line.split()[:2]) for line in (node / "log").read_text().splitlines()]


async def test_the_chain_is_executed_and_undone(node: Path) -> None:
    runner = CniRunner(node / "net.d", (node,))
    assert await runner.add(ATTACHMENT, node / "pod") == [PodAddress("10.244.1.2/24"), PodAddress("fd00::2/64")]
    # What is undone is what was done, whatever the folder says by then.
    (node / "net.d" / "10.conflist").unlink()
    await runner.delete(ATTACHMENT, node / "pod")
    assert commands(node) == ["ADD first", "ADD second", "DEL second", "DEL first"]
    assert all("prevResult" in line for line in (node / "log").read_text().splitlines()[1:])
    await runner.delete(ATTACHMENT, node / "pod")
    assert len(commands(node)) == 4


async def test_a_refused_pod_is_undone_and_the_reason_told(node: Path) -> None:
    make_plugin(node, "second", """echo '{"code": 11, "msg": "the agent is away"}'; exit 1""")
    with pytest.raises(MeshError, match="second: code 11: the agent is away"):
        await CniRunner(node / "net.d", (node,)).add(ATTACHMENT, node / "pod")
    assert commands(node) == ["ADD first", "ADD second", "DEL second", "DEL first"]
    assert not (node / "pod" / "cni.json").exists()


async def test_a_plugin_that_is_nowhere_is_named(node: Path) -> None:
    (node / "second").unlink()
    with pytest.raises(ConfigurationError, match="CNI plugin second is in none of"):
        await CniRunner(node / "net.d", (node,)).add(ATTACHMENT, node / "pod")

"""What a container runtime does with a CNI configuration, as values (CNI specification 1.0, sections 1 and 4). Pure.

A network is a list of plugins. For ADD they run in order, each given its own part of the configuration plus the list's
name and version and the result of the plugin before it; for DEL in reverse, each given the last ADD's result. The
parameters of an attachment travel in ``CNI_*`` environment variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from mesh.errors import ConfigurationError, InvalidMessage

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NetworkList:
    """One conflist."""

    name: str
    version: str
    plugins: tuple[JsonObject, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A pod to be given a network."""

    container_id: str
    netns: str
    interface: str
    namespace: str
    pod: str
    uid: str
    plugin_folders: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PluginCall:
    """One execution of one plugin."""

    plugin: str
    environment: dict[str, str]
    stdin: bytes


@dataclass(frozen=True, slots=True)
class PodAddress:
    """An address a plugin gave the pod: ``10.244.1.2/24`` as in its result."""

    address: str

    @property
    def ip(self) -> str:
        """The address without its prefix length."""
        return self.address.partition("/")[0]


def choose_network(files: dict[str, bytes]) -> NetworkList:
    """The network of the first usable file, in the order of names: kubelet's rule.

    Args:
        files: contents of the ``net.d`` folder by file name.

    Raises:
        ConfigurationError: no file holds a network; the message names what is wrong with those that are there.
    """
    problems: list[str] = []
    for name in sorted(files):
        if not name.endswith((".conflist", ".conf", ".json")):
            continue
        try:
            return read_network(files[name])
        except InvalidMessage as error:
            problems.append(f"{name}: {error}")
    raise ConfigurationError("no usable CNI configuration" + (f": {'; '.join(problems)}" if problems else " in net.d"))


def read_network(content: bytes) -> NetworkList:
    """Read a conflist, or a single plugin's conf as a list of one.

    Raises:
        InvalidMessage: it is neither.
    """
    try:
        document = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise InvalidMessage(f"not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("name"), str):
        raise InvalidMessage("not a network: it has no name")
    version = document.get("cniVersion", "0.1.0")
    plugins = document.get("plugins", [document])
    if not isinstance(plugins, list) or not plugins:
        raise InvalidMessage("its plugins are no list, or none")
    for plugin in plugins:
        if not isinstance(plugin, dict) or not isinstance(plugin.get("type"), str) or "/" in plugin["type"]:
            raise InvalidMessage("a plugin without a type, or with a path as its type")
    return NetworkList(document["name"], version, tuple(plugins))


def add_call(network: NetworkList, index: int, attachment: Attachment, previous: JsonObject | None) -> PluginCall:
    """The ADD of the plugin with this index, given the result of the one before."""
    return _call("ADD", network, index, attachment, previous)


def delete_calls(network: NetworkList, attachment: Attachment, result: JsonObject | None) -> list[PluginCall]:
    """The DELs of a network in the order to be made; ``result`` is the ADD's, when there was one."""
    return [_call("DEL", network, index, attachment, result) for index in reversed(range(len(network.plugins)))]


def check_calls(network: NetworkList, attachment: Attachment, result: JsonObject) -> list[PluginCall]:
    """The CHECKs of a network in order."""
    return [_call("CHECK", network, index, attachment, result) for index in range(len(network.plugins))]


def read_result(plugin: str, output: bytes) -> JsonObject:
    """What a plugin printed for a successful ADD.

    Raises:
        InvalidMessage: not a result.
    """
    try:
        result = msgspec.json.decode(output)
    except msgspec.DecodeError as error:
        raise InvalidMessage(f"CNI plugin {plugin} printed no JSON result: {output[:200]!r}") from error
    if not isinstance(result, dict):
        raise InvalidMessage(f"CNI plugin {plugin} printed {output[:200]!r}, which is no result")
    return result


def read_failure(plugin: str, status: int, output: bytes, errors: bytes) -> str:
    """What a failed plugin has to say: its error object if it printed one, else its standard error."""
    try:
        failure = msgspec.json.decode(output)
    except msgspec.DecodeError:
        failure = None
    if isinstance(failure, dict) and "msg" in failure:
        details = f" ({failure['details']})" if failure.get("details") else ""
        return f"CNI plugin {plugin}: code {failure.get('code')}: {failure['msg']}{details}"
    words = (errors or output).decode(errors="replace").strip()[-1000:]
    return f"CNI plugin {plugin} ended with {status}: {words or 'it said nothing'}"


def addresses(result: JsonObject) -> list[PodAddress]:
    """The addresses in a result of CNI 0.3 to 1.0, in its order.

    Raises:
        InvalidMessage: the result carries none, so the pod could not be reached.
    """
    found = [
        PodAddress(entry["address"])
        for entry in result.get("ips") or ()
        if isinstance(entry, dict) and isinstance(entry.get("address"), str)
    ]
    if not found:
        raise InvalidMessage("the CNI plugins gave the pod no address")
    return found


def _call(
    command: str, network: NetworkList, index: int, attachment: Attachment, previous: JsonObject | None
) -> PluginCall:
    plugin = network.plugins[index]
    config = {**plugin, "name": network.name, "cniVersion": network.version}
    if previous is not None:
        config["prevResult"] = previous
    arguments: Sequence[tuple[str, str]] = (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", attachment.namespace),
        ("K8S_POD_NAME", attachment.pod),
        ("K8S_POD_INFRA_CONTAINER_ID", attachment.container_id),
        ("K8S_POD_UID", attachment.uid),
    )
    environment = {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": attachment.container_id,
        "CNI_NETNS": attachment.netns,
        "CNI_IFNAME": attachment.interface,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments),
        "CNI_PATH": ":".join(attachment.plugin_folders),
    }
    return PluginCall(plugin["type"], environment, msgspec.json.encode(config))

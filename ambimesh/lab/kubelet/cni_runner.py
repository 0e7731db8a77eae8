"""Executes a CNI network's plugins as a container runtime does: the driver of ``cni_plan``.

The plugins run in the caller's own network namespace, which must be the node's. The result of each ADD is kept in the
pod's folder, because DEL has to be given it and may come from another process.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog
import trio

from ambimesh.lab.kubelet import cni_plan
from ambimesh.lab.kubelet.cni_plan import Attachment, JsonObject, NetworkList, PluginCall, PodAddress
from ambimesh.lab.programs import ProgramFailed, run_for_status
from mesh.errors import ConfigurationError, MeshError

_logger = structlog.get_logger()
_PLUGIN_SECONDS = 60.0
_RESULT = "cni.json"


class CniRunner:
    """The networks of one node's ``net.d`` folder."""

    def __init__(self, net_d: Path, plugin_folders: tuple[Path, ...]) -> None:
        self._net_d = net_d
        self._folders = plugin_folders

    @property
    def plugin_folders(self) -> tuple[str, ...]:
        """Where plugins are looked for, in order."""
        return tuple(str(folder) for folder in self._folders)

    def network(self) -> NetworkList:
        """The node's network as the folder says now; read for each pod, because an agent may add its plugin any time.

        Raises:
            ConfigurationError: there is none.
        """
        try:
            files = {entry.name: entry.read_bytes() for entry in self._net_d.iterdir() if entry.is_file()}
        except OSError as error:
            raise ConfigurationError(f"{self._net_d}: {error.strerror}") from error
        return cni_plan.choose_network(files)

    async def add(self, attachment: Attachment, pod_folder: Path) -> list[PodAddress]:
        """Give a pod its network; on failure what was done is undone.

        Raises:
            MeshError: a plugin failed, with its own words.
        """
        network = self.network()
        result: JsonObject | None = None
        try:
            for index in range(len(network.plugins)):
                call = cni_plan.add_call(network, index, attachment, result)
                result = cni_plan.read_result(call.plugin, await self._execute(call))
            found = cni_plan.addresses(result or {})
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._delete(network, attachment, None)
            raise
        kept = {"name": network.name, "version": network.version, "plugins": network.plugins, "result": result}
        (pod_folder / _RESULT).write_bytes(msgspec.json.encode(kept))
        return found

    async def delete(self, attachment: Attachment, pod_folder: Path) -> None:
        """Take a pod's network away with the plugins that gave it; failures are logged, as the pod goes anyway."""
        try:
            kept = msgspec.json.decode((pod_folder / _RESULT).read_bytes())
        except FileNotFoundError:
            return
        network = NetworkList(kept["name"], kept["version"], tuple(kept["plugins"]))
        await self._delete(network, attachment, kept["result"])
        (pod_folder / _RESULT).unlink(missing_ok=True)

    async def _delete(self, network: NetworkList, attachment: Attachment, result: JsonObject | None) -> None:
        for call in cni_plan.delete_calls(network, attachment, result):
            try:
                await self._execute(call)
            except MeshError as error:
                _logger.warning("cni_delete_failed", pod=f"{attachment.namespace}/{attachment.pod}", error=str(error))

    async def _execute(self, call: PluginCall) -> bytes:
        program = next((folder / call.plugin for folder in self._folders if (folder / call.plugin).is_file()), None)
        if program is None:
            raise ConfigurationError(f"CNI plugin {call.plugin} is in none of {', '.join(map(str, self._folders))}")
        status, output, errors = await run_for_status(
            [str(program)],
            stdin=call.stdin,
            timeout=_PLUGIN_SECONDS,
            environment={**call.environment, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        if status != 0:
            raise ProgramFailed(cni_plan.read_failure(call.plugin, status, output, errors))
        return output

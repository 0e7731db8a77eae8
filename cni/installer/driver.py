"""Installs the CNI plugin on a node and keeps it installed.

Theory of operation. The plugin's binary goes into the runtime's plugin folder first, then its entry into the first
usable configuration of ``net.d`` (``conflist``). Both are written beside their place, flushed to disk and renamed over
it, so that at any moment, also after a power failure or on a full disk, there is a whole old file or a whole new one. A
``.conf`` becomes a ``.conflist``, which is in place before the ``.conf`` is removed; a crash between the two leaves a
state from which the next run goes on.

The network's own agent may rewrite its file, or somebody may add a file with an earlier name, at any time. The folder
is watched by inotify and put in order again; a slow repetition covers what inotify cannot tell (the folder replaced
by another, a network file system).

When the agent merely stops, for an upgrade or a reboot, the entry stays: new pods wait rather than start outside the
mesh. Only ``uninstall`` takes it out.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Never

import inotify_simple
import structlog
import trio

from cni.installer import conflist
from mesh.errors import ConfigurationError, EnvironmentLacks, MeshError

_log = structlog.get_logger("installer")

_REPEAT = 10.0
"""Seconds between looks without an event."""
_QUIET = 0.05
"""Seconds to let a burst of events pass."""
_TEMPORARY_PREFIX = ".ambimesh-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """Where the plugin goes."""

    net_directory: Path
    """The runtime's configurations, usually ``/etc/cni/net.d``."""
    binary_directory: Path
    """The runtime's plugins, usually ``/opt/cni/bin``."""
    binary: Path | None
    """The built plugin to copy there; None when it is there already."""
    agent_socket: Path
    net_directory_of_node: Path | None = None
    """What the node calls ``net_directory``, where that is a mount of this container's; None: the same."""
    binary_directory_of_node: Path | None = None

    def on_node(self, path: Path | str) -> Path:
        """What the node calls a file: in messages, which are read there."""
        path = Path(path)
        for here, there in (
            (self.net_directory, self.net_directory_of_node),
            (self.binary_directory, self.binary_directory_of_node),
        ):
            if there is not None and path.is_relative_to(here):
                return there / path.relative_to(here)
        return path

    @property
    def entry(self) -> conflist.JsonObject:
        """Our entry in the list of plugins."""
        return {"type": conflist.PLUGIN_TYPE, "agentSocket": str(self.agent_socket)}


@dataclass(frozen=True, slots=True)
class Look:
    """What was found, and done, at one look at the node."""

    path: Path | None
    """The configuration that holds the entry; None if there is none."""
    failure: MeshError | None = None
    """Why the plugin could not be installed."""
    unusable: tuple[str, ...] = ()
    """Of each file that comes before that one and that no runtime could use, what is wrong with it."""

    @property
    def missing_because(self) -> str | None:
        """Why the plugin is not installed; None when it is."""
        if self.path is not None:
            return None
        if self.failure is not None:
            return str(self.failure)
        return "; ".join(self.unusable) or "there is no usable CNI configuration yet"


def _log_unusable(reason: str) -> None:
    _log.error("unusable CNI configuration", reason=reason)


def install_once(installation: Installation, complain: Callable[[str], None] = _log_unusable) -> Path | None:
    """Put binary and entry in place; nothing is written that is so already.

    Args:
        installation: what to install where.
        complain: told of every file that no runtime could use.

    Returns:
        The configuration that now holds the entry; None when the folder has no usable one yet.

    Raises:
        ConfigurationError: the binary is missing, or a foreign file stands where the conflist must go.
        EnvironmentLacks: a file cannot be written; the old one is intact.
    """
    with _explained(installation):
        _install_binary(installation)
        for path, configuration in _usable(installation, complain):
            return _chain(path, configuration, installation)
        return None


def uninstall_once(installation: Installation) -> list[Path]:
    """Take the entry out of every configuration, then remove the binary; returns the files changed.

    Raises:
        EnvironmentLacks: a file cannot be written; the old one is intact.
    """
    changed = []
    with _explained(installation):
        for path, configuration in _usable(installation, _log_unusable):
            document = conflist.without_entry(configuration)
            if document is not None:
                _replace(path, conflist.encode(document), path.stat())
                changed.append(path)
        with contextlib.suppress(FileNotFoundError):
            (installation.binary_directory / conflist.PLUGIN_TYPE).unlink()
    return changed


async def keep_installed(installation: Installation, report: Callable[[Look], None] = lambda look: None) -> Never:
    """Install, and repair for ever; while there is no usable configuration, wait for one.

    Args:
        installation: what to install where.
        report: told the outcome of every look.
    """
    shown = ""
    complaints: set[str] = set()
    while True:
        with _watched(installation) as changes:
            # Watched before it is read: a change in between is seen twice, not missed.
            look = await trio.to_thread.run_sync(_look, installation)
            report(look)
            for reason in look.unusable:
                if reason not in complaints:  # said once, not at every look
                    _log_unusable(reason)
            complaints = set(look.unusable)
            outcome = f"installed in {installation.on_node(look.path)}" if look.path else str(look.missing_because)
            if outcome != shown:
                (_log.info if look.path else _log.warning)("cni plugin", outcome=outcome)
                shown = outcome
            with trio.move_on_after(_REPEAT):
                await _change(changes)


def _look(installation: Installation) -> Look:
    unusable: list[str] = []
    try:
        return Look(install_once(installation, unusable.append), None, tuple(unusable))
    except MeshError as error:
        return Look(None, error, tuple(unusable))


@contextlib.contextmanager
def _watched(installation: Installation) -> Iterator[inotify_simple.INotify | None]:
    flags = inotify_simple.flags
    mask = flags.CLOSE_WRITE | flags.MOVED_TO | flags.MOVED_FROM | flags.DELETE | flags.ATTRIB | flags.DELETE_SELF
    try:
        watcher = inotify_simple.INotify(nonblocking=True)
    except OSError:
        yield None  # out of instances: the repetition still works
        return
    with watcher:
        for folder in (installation.net_directory, installation.binary_directory):
            with contextlib.suppress(OSError):  # not there (yet): the repetition finds it
                watcher.add_watch(folder, mask)
        yield watcher


async def _change(watcher: inotify_simple.INotify | None) -> None:
    """Return when somebody else's change may need a repair."""
    if watcher is None:
        await trio.sleep_forever()
        return
    while True:
        await trio.lowlevel.wait_readable(watcher.fileno())
        await trio.sleep(_QUIET)
        if any(not event.name.startswith(_TEMPORARY_PREFIX) for event in watcher.read(timeout=0)):
            return


@contextlib.contextmanager
def _explained(installation: Installation) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentLacks(
            f"the CNI plugin cannot be installed in {installation.on_node(installation.net_directory)} and "
            f"{installation.on_node(installation.binary_directory)}: {error.strerror} "
            f"({installation.on_node(error.filename or '')}); what was there is intact"
        ) from error


def _usable(
    installation: Installation, complain: Callable[[str], None]
) -> Iterator[tuple[Path, conflist.Configuration]]:
    """The configurations a runtime could use, first one first; the others are complained of and left alone."""
    folder = installation.net_directory
    try:
        names = sorted(entry.name for entry in folder.iterdir() if conflist.is_candidate(entry.name))
    except FileNotFoundError:
        return
    for name in names:
        path = folder / name
        try:
            with path.open("rb") as file:
                configuration = conflist.read(file.read(conflist.MAXIMUM_FILE + 1), str(installation.on_node(path)))
        except (FileNotFoundError, IsADirectoryError):
            continue
        except ConfigurationError as error:
            complain(str(error))
            continue
        yield path, configuration


def _chain(path: Path, configuration: conflist.Configuration, installation: Installation) -> Path:
    document = conflist.with_entry(configuration, installation.entry)
    if document is None:
        return path
    target = path if configuration.is_list else path.with_name(conflist.target_name(path.name))
    if target != path and target.exists():
        _require_ours(target, installation.on_node(path))
    _replace(target, conflist.encode(document), path.stat())
    if target != path:
        path.unlink()
        _flush_folder(path.parent)
    return target


def _require_ours(target: Path, source: Path) -> None:
    """A conflist left by an earlier wrapping may be replaced; anybody else's may not."""
    try:
        ours = conflist.has_entry(conflist.read(target.read_bytes(), str(target)))
    except ConfigurationError:
        ours = False
    if not ours:
        raise ConfigurationError(
            f"{source} has to become {target.name}, but a file of that name exists that ambimesh did not make: "
            "remove the one that is not used"
        )


def _install_binary(installation: Installation) -> None:
    if installation.binary is None:
        return
    try:
        content = installation.binary.read_bytes()
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"the CNI plugin {installation.binary} does not exist: build it with cni/plugin/build.sh"
        ) from error
    place = installation.binary_directory / conflist.PLUGIN_TYPE
    with contextlib.suppress(FileNotFoundError):
        if place.read_bytes() == content and place.stat().st_mode & 0o777 == 0o755:
            return
    installation.binary_directory.mkdir(parents=True, exist_ok=True)
    _write_beside(place, content, mode=0o755)


def _replace(path: Path, content: bytes, like: os.stat_result) -> None:
    """Write a file whole, with the owner and mode of another."""
    _write_beside(path, content, mode=like.st_mode & 0o7777, owner=(like.st_uid, like.st_gid))


def _write_beside(path: Path, content: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=_TEMPORARY_PREFIX, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(file.fileno(), *owner)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:  # a full disk is told by what has only a descriptor
            error.filename = str(path)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A folder of manifests, watched: the cluster's objects where there is no API server.

Theory of operation. Every ``.yaml``, ``.yml`` and ``.json`` file under the folder is decoded on its own; hidden files
and folders are left out, which is where writers keep files that are not finished. inotify says which files may have
changed; only these are read again. Events come in bursts (a copied folder, an editor's rename dance), so a change is
taken up once it has been quiet for a moment, or after a longer moment if it never is.

The last good version stays. A document that no longer decodes keeps the object it was; where not even the object's name
can be read any more (malformed YAML), everything the file held and no longer holds is kept. An object goes when its
document is taken out of a file that is otherwise sound, or when the file goes; when the whole folder goes (somebody
moves it away and back) everything stays. Of two files that hold an object of the same name the first by path counts.
"""

from __future__ import annotations

import math
import os
import stat
from bisect import insort
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import inotify_simple
import structlog
import trio

from mesh.errors import ConfigurationError, EnvironmentLacks
from resources.decode import decode_documents
from resources.documents import MAX_TEXT
from resources.object_set import ObjectSet, with_identity
from resources.objects import KubernetesObject, ObjectKey
from resources.problem import Problem

SUFFIXES = (".yaml", ".yml", ".json")
QUIET = 0.02
"""Seconds without an event after which a burst is over."""
LONGEST_BURST = 0.25
"""Seconds after which a burst is taken up even if it goes on."""
LOST_FOLDER_POLL = 1.0
"""Seconds between looks for a folder that has gone: nothing tells when it comes back."""
MAX_FOLDER_DEPTH = 16

_flags = inotify_simple.flags
_MASK = (
    _flags.CLOSE_WRITE
    | _flags.MOVED_TO
    | _flags.MOVED_FROM
    | _flags.CREATE
    | _flags.DELETE
    | _flags.DELETE_SELF
    | _flags.MOVE_SELF
    | _flags.ONLYDIR
    | _flags.EXCL_UNLINK
)
_log = structlog.get_logger("resources")


@dataclass(frozen=True, slots=True)
class _File:
    """What one file holds."""

    stamp: tuple[int, int, int]
    """Inode, size and modification time in nanoseconds, by which a full scan sees that a file is as it was."""
    objects: dict[ObjectKey, KubernetesObject]
    problems: tuple[Problem, ...]


class FolderSource:
    """The objects of a folder, and what is wrong with its documents. For one waiter at a time."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._files: dict[Path, _File] = {}
        self._objects = ObjectSet()
        self._problems: tuple[Problem, ...] = ()
        self._inotify: inotify_simple.INotify | None = None
        self._watches: dict[int, Path] = {}
        self._unseen = False
        self._dirty: set[Path] | None = set()
        """Files to read again; None when everything must be looked at."""
        self._lost = False
        self._holders: dict[ObjectKey, list[Path]] = {}
        self._troubled: set[Path] = set()
        self._contested: set[ObjectKey] = set()
        self._closed: set[Path] = set()
        """Folders that may not be read."""

    @property
    def objects(self) -> ObjectSet:
        """All objects, as of the last look."""
        return self._objects

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the folder's documents, as of the last look."""
        return self._problems

    @property
    def not_ready_because(self) -> str | None:
        """Nothing: a folder is read before it is open."""
        return None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[FolderSource]:
        """Watch the folder and read it.

        Raises:
            ConfigurationError: there is no such folder.
            EnvironmentLacks: inotify gives no (further) instance or watch.
        """
        if not self._path.is_dir():
            raise ConfigurationError(f"{self._path} is no folder; create it or correct the configured path")
        try:
            self._inotify = inotify_simple.INotify(nonblocking=True)
        except OSError as error:
            raise EnvironmentLacks(f"no inotify instance: {error}; raise fs.inotify.max_user_instances") from error
        try:
            await trio.to_thread.run_sync(self._scan)
            self._unseen = True
            yield self
        finally:
            self._inotify.close()
            self._inotify = None
            self._watches.clear()

    async def wait_change(self) -> ObjectSet:
        """Wait until objects or problems differ from those returned last; the first call returns at once.

        Raises:
            EnvironmentLacks: inotify gives no further watch.
        """
        while not self._unseen:
            if self._dirty is not None and not self._dirty:
                await self._wait_burst()
            dirty, self._dirty = self._dirty, set()
            before = (self._objects, self._problems)
            if dirty is None:
                await trio.to_thread.run_sync(self._scan)
            else:
                await trio.to_thread.run_sync(self._refresh, dirty)
            self._unseen = before[0] is not self._objects or before[1] != self._problems
        self._unseen = False
        return self._objects

    async def _wait_burst(self) -> None:
        """Wait for a burst of events and note what they name; what is noted outlives a cancellation."""
        assert self._inotify is not None, "used outside of open()"
        with trio.move_on_after(LOST_FOLDER_POLL if self._lost else math.inf) as scope:
            await trio.lowlevel.wait_readable(self._inotify.fileno())
        if scope.cancelled_caught:
            self._dirty = None
            return
        deadline = trio.current_time() + LONGEST_BURST
        while True:
            self._drain()
            with trio.move_on_at(min(deadline, trio.current_time() + QUIET)) as scope:
                await trio.lowlevel.wait_readable(self._inotify.fileno())
            if scope.cancelled_caught or trio.current_time() >= deadline:
                return

    def _drain(self) -> None:
        assert self._inotify is not None
        for event in self._inotify.read(timeout=0):
            folder = self._watches.get(event.wd)
            if event.mask & _flags.IGNORED:
                self._watches.pop(event.wd, None)
            if event.mask & (_flags.Q_OVERFLOW | _flags.ISDIR | _flags.DELETE_SELF | _flags.MOVE_SELF):
                self._dirty = None
            elif event.name == "..data":
                self._dirty = None  # a mounted ConfigMap or Secret swaps all its files through this one link
            elif folder is not None and self._dirty is not None and _is_manifest(event.name):
                path = folder / event.name
                if not event.mask & _flags.CREATE or _is_link(path):
                    self._dirty.add(path)  # a plain file just created is still being written: its close follows

    # The rest is synchronous and runs in a thread: files block.

    def _scan(self) -> None:
        self._lost = not self._path.is_dir()
        if self._lost:
            self._merge(set())
            return
        found: dict[Path, tuple[int, int, int]] = {}
        self._closed.clear()
        self._walk(self._path, found, MAX_FOLDER_DEPTH)
        gone = {path for path in self._files.keys() - found.keys() if not self._closed.intersection(path.parents)}
        changed = {
            path for path, stamp in found.items() if path not in self._files or self._files[path].stamp != stamp
        }
        self._refresh(gone | changed)

    def _walk(self, folder: Path, found: dict[Path, tuple[int, int, int]], depth: int) -> None:
        assert self._inotify is not None
        try:
            # Watched before it is read: what is written between the two is seen twice, not missed.
            self._watches[self._inotify.add_watch(folder, _MASK)] = folder
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return
        except PermissionError:
            self._closed.add(folder)
            return
        except OSError as error:
            remedy = "raise fs.inotify.max_user_watches or give the process access to the folder"
            raise EnvironmentLacks(f"cannot watch {folder}: {error}; {remedy}") from error
        for entry in entries:
            path = folder / entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    if depth and not entry.name.startswith("."):
                        self._walk(path, found, depth - 1)
                elif _is_manifest(entry.name):
                    found[path] = _stamp(entry.stat())
            except FileNotFoundError:
                continue

    def _refresh(self, paths: Iterable[Path]) -> None:
        touched: set[ObjectKey] = set()
        for path in sorted(paths):
            old = self._files.get(path)
            new = _read(path, old)
            touched.update(old.objects if old else (), new.objects if new else ())
            for key in old.objects if old else ():
                self._holders[key].remove(path)
            for key in new.objects if new else ():
                insort(self._holders.setdefault(key, []), path)
            if new is not None:
                self._files[path] = new
            elif old is not None:
                del self._files[path]
            if new is not None and new.problems:
                self._troubled.add(path)
            else:
                self._troubled.discard(path)
        self._merge(touched)

    def _merge(self, touched: set[ObjectKey]) -> None:
        """Bring the set of objects up to date for some names, and gather the problems."""
        updated: list[KubernetesObject] = []
        removed: list[ObjectKey] = []
        for key in touched:
            holders = self._holders[key]
            if holders:
                updated.append(self._files[holders[0]].objects[key])
            else:
                removed.append(key)
                del self._holders[key]
            if len(holders) > 1:
                self._contested.add(key)
            else:
                self._contested.discard(key)
        self._objects = self._objects.with_changes(updated, removed)
        self._tell(tuple(self._gather_problems()))

    def _gather_problems(self) -> Iterator[Problem]:
        if self._lost:
            remedy = "put it back; until then its last content is used"
            yield Problem(place=str(self._path), message="the folder is gone", remedy=remedy)
        for folder in sorted(self._closed):
            yield Problem(place=str(folder), message="the folder may not be read", remedy="give the process access")
        for path in sorted(self._troubled):
            yield from self._files[path].problems
        for key in sorted(self._contested):
            first, *others = self._holders[key]
            yield from (_duplicate(key, path, first) for path in others)

    def _tell(self, problems: tuple[Problem, ...]) -> None:
        known = set(self._problems)
        for problem in problems:
            if problem not in known:
                _log.warning("manifest problem", problem=str(problem))
        self._problems = problems


def _is_manifest(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _is_link(path: Path) -> bool:
    """Whether a new name is complete at once: a symbolic link, or a further name of an existing file."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) or status.st_nlink > 1


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _duplicate(key: ObjectKey, path: Path, first: Path) -> Problem:
    message = f"an object of this kind and name also stands in {first}, which counts"
    return Problem(place=str(path), message=message, key=key, remedy="remove one of them")


def _read(path: Path, old: _File | None) -> _File | None:
    """Read one file; None when it is not there (any more)."""
    kept = old.objects if old else {}
    try:
        with path.open("rb") as file:
            stamp = _stamp(os.fstat(file.fileno()))
            content = file.read(MAX_TEXT * 4 + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except OSError as error:
        return _File((0, 0, 0), kept, (Problem(place=str(path), message=f"cannot be read: {error.strerror}"),))
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problem = Problem(place=str(path), line=line, message="not UTF-8 text", remedy="save the file as UTF-8")
        return _File(stamp, kept, (problem,))
    decoded, problems = decode_documents(text, str(path))
    objects = {value.key: with_identity(value) for value in decoded}
    for key in _broken_names(problems, kept):
        objects.setdefault(key, kept[key])
    return _File(stamp, objects, tuple(problems))


def _broken_names(problems: Iterable[Problem], kept: dict[ObjectKey, KubernetesObject]) -> set[ObjectKey]:
    """Which of a file's earlier objects its broken documents may have been."""
    names: set[ObjectKey] = set()
    for problem in problems:
        if problem.key is None:
            return set(kept)
        if problem.key in kept:
            names.add(problem.key)
    return names

"""The state of an API server's double: objects with resource versions, what happened to them, and who applied what."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from resources.kube.kinds import API_KINDS

Body = dict[str, Any]
Key = tuple[str, str, str]
"""Collection (``group/plural``), namespace, name."""
_MORE = {
    "/secrets": True, "coordination.k8s.io/leases": True, "events.k8s.io/events": True,
}  # fmt: skip
_KEYED = {"conditions": "type", "listeners": "name", "ownerReferences": "uid"}
"""Lists that apply merges by a key, as the API's schemas have it."""


class Refusal(Exception):
    """The answer is an error."""

    def __init__(self, status: int, reason: str, message: str = "") -> None:
        super().__init__(f"{status} {reason} {message}")
        self.status, self.reason, self.message = status, reason, message or reason


@dataclass(frozen=True, slots=True)
class Happened:
    """One event of a watch."""

    version: int
    type: str
    key: Key
    body: Body
    before: Body | None


@dataclass
class Cluster:
    """Objects, and what happened to them since ``compacted``."""

    installed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The collections that exist, with the versions they are served in."""
    objects: dict[Key, Body] = field(default_factory=dict)
    version: int = 1
    history: list[Happened] = field(default_factory=list)
    compacted: int = 0
    changed: trio.Event = field(default_factory=trio.Event)
    _applied: dict[tuple[Key, str, str], Body] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.installed:
            for kind in API_KINDS.values():
                self.installed[f"{kind.group}/{kind.plural}"] = kind.versions
            self.installed |= dict.fromkeys(_MORE, ("v1",))

    def put(self, collection: str, body: Body) -> Body:
        """Create or replace, without asking."""
        key = self._key(collection, body)
        body = copy.deepcopy(body)
        old = self.objects.get(key)
        metadata = body["metadata"]
        metadata["uid"] = old["metadata"]["uid"] if old else metadata.get("uid") or f"uid-{self.version + 1}"
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        self._write(key, "MODIFIED" if old else "ADDED", body)
        return body

    def create(self, collection: str, body: Body) -> Body:
        """Create; refused when the object is there."""
        if self._key(collection, body) in self.objects:
            raise Refusal(409, "AlreadyExists")
        return self.put(collection, body)

    def replace(self, collection: str, body: Body) -> Body:
        """Replace; refused when it was changed since it was read."""
        old = self.get(self._key(collection, body))
        self._check_version(old, body)
        return self.put(collection, body)

    def get(self, key: Key) -> Body:
        """One object."""
        if key not in self.objects:
            raise Refusal(404, "NotFound", f"{key[0]} {key[2]} not found")
        return self.objects[key]

    def delete(self, key: Key, uid: str = "") -> Body:
        """Delete one object; refused when it is not the one with this uid."""
        body = copy.deepcopy(self.get(key))
        if uid not in ("", body["metadata"]["uid"]):
            raise Refusal(409, "Conflict", f"the UID is {body['metadata']['uid']}")
        self._write(key, "DELETED", body)
        del self.objects[key]
        return body

    def merge(self, key: Key, patch: Body) -> Body:
        """A JSON merge patch."""
        old = self.get(key)
        self._check_version(old, patch)
        body = _merge_patch(old, patch)
        return body if body == old else self.put(key[0], body)

    def apply(self, key: Key, patch: Body, manager: str, subresource: str) -> Body:
        """A server-side apply: fields that this manager applied before and does not any more are taken away."""
        old = self.objects.get(key)
        if old is None:
            if subresource:
                raise Refusal(404, "NotFound")
            old = {"metadata": {}}
        self._check_version(old, patch)
        patch = copy.deepcopy(patch)
        patch["metadata"].pop("resourceVersion", None)
        wanted = {name: part for name, part in patch.items() if not subresource or name == subresource}
        body = _without(copy.deepcopy(old), self._applied.get((key, manager, subresource), {}), wanted)
        body = _merge(body, wanted)
        body["metadata"] |= {"name": key[2], **({"namespace": key[1]} if key[1] else {})}
        self._applied[key, manager, subresource] = wanted
        return body if body == old else self.put(key[0], body)

    def of(self, collection: str, namespace: str = "") -> list[tuple[Key, Body]]:
        """All objects of a collection, in order."""
        return sorted(
            (item for item in self.objects.items() if item[0][0] == collection and namespace in ("", item[0][1])),
            key=lambda item: item[0],
        )


    def events_after(self, version: int) -> list[Happened]:
        """What happened after a version, in order."""
        return self.history[self._index(version):]

    def compact(self) -> None:
        """Forget what happened: watches from before must list anew."""
        self.compacted = self.version
        self.history.clear()

    def wake(self) -> None:
        """Let watches look."""
        self.changed.set()
        self.changed = trio.Event()

    def _index(self, version: int) -> int:
        low, high = 0, len(self.history)
        while low < high:
            middle = (low + high) // 2
            if self.history[middle].version <= version:
                low = middle + 1
            else:
                high = middle
        return low

    def _write(self, key: Key, event: str, body: Body) -> None:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        before = self.objects.get(key)
        self.objects[key] = body
        self.history.append(Happened(self.version, event, key, body, before))
        self.wake()

    def _check_version(self, old: Body, new: Body) -> None:
        wished = new.get("metadata", {}).get("resourceVersion")
        if wished and wished != old["metadata"].get("resourceVersion"):
            raise Refusal(409, "Conflict", "the object has been modified")

    def _key(self, collection: str, body: Body) -> Key:
        metadata = body["metadata"]
        return collection, metadata.get("namespace", ""), metadata["name"]


def selected(body: Body, labels: str, fields: str) -> bool:
    """Whether an object is chosen by selectors: ``a``, ``a=b`` of labels, ``metadata.name=x`` of fields."""
    have: Mapping[str, str] = body["metadata"].get("labels") or {}
    for term in filter(None, labels.split(",")):
        name, equals, value = term.partition("=")
        if name not in have or (equals and have[name] != value):
            return False
    for term in filter(None, fields.split(",")):
        path, _, value = term.partition("=")
        found: Any = body
        for part in path.split("."):
            found = (found or {}).get(part)
        if (found or "") != value:
            return False
    return True


def _merge_patch(old: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = copy.deepcopy(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merge_patch(result.get(name), value)
    return result


def _merge(old: Any, new: Any, name: str = "") -> Any:
    if isinstance(new, dict) and isinstance(old, dict):
        return {**old, **{key: _merge(old.get(key), value, key) for key, value in new.items()}}
    if isinstance(new, list) and isinstance(old, list) and (key := _KEYED.get(name)) is not None:
        fresh = {one[key]: one for one in new}
        kept = [_merge(one, fresh.pop(one[key])) if one[key] in fresh else one for one in old]
        return [*kept, *fresh.values()]
    return copy.deepcopy(new)


def _without(body: Any, before: Any, now: Any, name: str = "") -> Any:
    """The object without what was applied before and is not any more."""
    if isinstance(before, dict) and isinstance(body, dict):
        now = now if isinstance(now, dict) else {}
        for key, value in before.items():
            if key not in now and not isinstance(value, dict) and key not in _KEYED:
                body.pop(key, None)
            elif key in body:
                body[key] = _without(body[key], value, now.get(key), key)
        return body
    if isinstance(body, list) and (key := _KEYED.get(name)) is not None:
        had, has = {one[key] for one in before}, {one[key] for one in now or ()}
        return [one for one in body if one[key] not in had - has]
    return body

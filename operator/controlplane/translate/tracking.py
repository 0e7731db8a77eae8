"""Who read what: the reason why an incremental translation equals a fresh one.

Theory of operation. What a destination of a waypoint is told depends on objects of a dozen kinds, some of them named
by others (a route names a Service, whose namespace names a Gateway, whose class a GatewayClass), and on objects that do
not exist yet. Relations that are written out by hand, one for each pair of kinds, would be wrong somewhere. So every
translation reads through a ``View``, which notes what was asked for, found or not: an object by its name, or all
objects that share a *facet* (the routes of one parent, the policies of one target). An object's facets follow from its
content alone. When objects change, whoever has asked for a facet of the old or the new version is translated again.

A translation must read nothing else: values in, values out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from controlplane.translate.facets import Facet, facets_of, object_facet
from controlplane.translate.settings import MeshSettings
from resources.object_set import Changes, ObjectSet
from resources.objects import KubernetesObject, ObjectKey
from resources.sharing import shared

_Kind = TypeVar("_Kind", bound=KubernetesObject)
_Made = TypeVar("_Made")


class Node(NamedTuple):
    """One translation that is done, and done again, as a whole."""

    task: str
    object: ObjectKey


class Tracker:
    """The objects by facet, and the nodes that asked for each facet."""

    def __init__(self, settings: MeshSettings) -> None:
        self.settings = settings
        self.objects = ObjectSet()
        self._by_facet: defaultdict[Facet, set[ObjectKey]] = defaultdict(set)
        self._readers: defaultdict[Facet, set[Node]] = defaultdict(set)
        self._reads: dict[Node, tuple[Facet, ...]] = {}
        self._made: dict[ObjectKey, dict[Callable[[Any], object], object]] = {}

    def take(self, objects: ObjectSet, changes: Changes) -> set[Node]:
        """Take over a new set of objects; the nodes whose translation may differ now."""
        # Of facets that nobody reads nothing is kept: of a first state these are all there are.
        touched: set[Facet] = set()
        for old in (*changes.removed, *(self.objects.get(value.key) for value in changes.updated)):
            if old is not None:
                key = old.key
                self._made.pop(key, None)
                self._touch(object_facet(key), touched)
                for facet in self._facets(old):
                    self._touch(facet, touched)
                    _discard(self._by_facet, facet, key)
        for value in changes.updated:
            key = value.key
            self._touch(object_facet(key), touched)
            for facet in self._facets(value):
                self._touch(facet, touched)
                self._by_facet[facet].add(key)
        self.objects = objects
        return {node for facet in touched for node in self._readers.get(facet, ())}

    def _touch(self, facet: Facet, touched: set[Facet]) -> None:
        if facet in self._readers:
            touched.add(facet)

    def _facets(self, value: KubernetesObject) -> Iterator[Facet]:
        """Beside its name, by which it is found among the objects."""
        kind = type(value).__name__
        for facet in facets_of(value, self.settings):
            yield (kind, *facet)

    def view(self, node: Node) -> View:
        """A fresh view for a node's translation; what it read before is forgotten."""
        self.forget(node)
        return View(self, node)

    def finish(self, node: Node, reads: Iterable[Facet], leader: Node | None = None) -> None:
        """A node has been translated, and has read all of this.

        Args:
            node: the node.
            reads: what it read.
            leader: a node that was translated before this one, with which this one is always translated again; what
                both read need not be remembered twice.
        """
        if leader is not None:
            led = self._reads.get(leader, ())
            reads = [facet for facet in reads if facet not in led]
        # Kept as tuples of shared facets: most nodes read one or two, and thousands read the same.
        facets = tuple(shared(facet) for facet in reads)
        if facets:
            self._reads[node] = shared(facets)
        for facet in facets:
            self._readers[facet].add(node)

    def forget(self, node: Node) -> None:
        """A node is no more, or about to read again."""
        for facet in self._reads.pop(node, ()):
            _discard(self._readers, facet, node)

    def made_of(self, value: _Kind, make: Callable[[_Kind], _Made]) -> _Made:
        """What a function makes of an object; kept for as long as the object is as it is now, and no longer."""
        made = self._made.setdefault(value.key, {})
        if make not in made:
            made[make] = make(value)
        return made[make]  # type: ignore[return-value]  # it is what this function returned

    def having(self, facet: Facet) -> Iterable[ObjectKey]:
        """Names of the objects with a facet."""
        return self._by_facet.get(facet, ())


class View:
    """The objects, as one node's translation sees them."""

    def __init__(self, tracker: Tracker, node: Node) -> None:
        self._tracker = tracker
        self._reads: set[Facet] = set()
        self._node = node
        self.settings = tracker.settings

    def close(self, leader: Node | None = None) -> None:
        """The translation is done: from here on, a change of what it read concerns it; ``leader`` as in ``finish``."""
        self._tracker.finish(self._node, self._reads, leader)

    def find(self, kind: type[_Kind], namespace: str, name: str) -> _Kind | None:
        """An object by its name; ``namespace`` is empty for cluster-scoped kinds."""
        self._note(object_facet(ObjectKey(kind.__name__, namespace, name)))
        return self._tracker.objects.find(kind, namespace, name)

    def made_of(self, value: _Kind, make: Callable[[_Kind], _Made]) -> _Made:
        """What a function makes of an object that was found: what is costly and read by many nodes is made once.

        Args:
            value: the object, as this view has it.
            make: reads nothing but the object.
        """
        return self._tracker.made_of(value, make)

    def having(self, kind: type[_Kind], facet: Facet) -> list[_Kind]:
        """The objects of a kind with a facet, the oldest first."""
        of_kind = (kind.__name__, *facet)
        self._note(of_kind)
        found: list[_Kind] = []
        for key in self._tracker.having(of_kind):
            value = self._tracker.objects.find(kind, key.namespace, key.name)
            assert value is not None
            found.append(value)
        return sorted(found, key=age)

    def _note(self, facet: Facet) -> None:
        self._reads.add(facet)


def age(value: KubernetesObject) -> tuple[str, str, str]:
    """The order of objects, as the Gateway API resolves conflicts: the oldest first, then by namespace and name."""
    metadata = value.metadata
    return metadata.creation_timestamp or "", metadata.namespace, metadata.name


_Member = TypeVar("_Member")


def _discard(table: defaultdict[Facet, set[_Member]], facet: Facet, member: _Member) -> None:
    """Remove a member, and its set when that is empty, so that churn leaves nothing behind."""
    members = table.get(facet)
    if members is not None:
        members.discard(member)
        if not members:
            del table[facet]


def all_of(view: View, kind: type[_Kind], facets: Iterable[Facet]) -> Iterator[_Kind]:
    """The objects with any of several facets, each once, in the order of the facets."""
    seen: set[ObjectKey] = set()
    for facet in facets:
        for value in view.having(kind, facet):
            if value.key not in seen:
                seen.add(value.key)
                yield value

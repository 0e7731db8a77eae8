from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from resources.kube.kind_store import KindStore
from resources.kube.kinds import API_KINDS
from resources.kube.list_watch_machine import Availability, Remove, Report, Store
from resources.objects import KubernetesObject, ObjectKey


def item(name: str, good: bool = True) -> bytes:
    spec = {"containers": [{"name": "c"}] if good else 3}
    return json.dumps({"metadata": {"name": name, "namespace": "n"}, "spec": spec}).encode()


class Held(KindStore):
    """A store, and whoever applies its changes."""

    def __init__(self, kind: str = "Pod") -> None:
        super().__init__(API_KINDS[kind], lambda: set(self.known))
        self.known: set[ObjectKey] = set()

    def take(self, told: Store | Remove | Report) -> dict[ObjectKey, KubernetesObject | None]:
        changes = super().take(told)
        for name, value in changes.items():
            self.known.add(name) if value is not None else self.known.discard(name)
        return changes


def store(kind: str = "Pod") -> Held:
    return Held(kind)


def key(name: str) -> ObjectKey:
    return ObjectKey("Pod", "n", name)


def test_a_list_takes_away_what_it_does_not_name() -> None:
    pods = store()
    assert pods.waited_for == "pods have not been read yet"
    pods.take(Store((item("a"), item("b")), first=True))
    assert pods.waited_for is not None
    assert pods.take(Store((item("c"),), last=True)).keys() == {key("c")}
    assert pods.waited_for is None
    assert pods.take(Store((item("b"),), first=True, last=True)) == {key("b"): pods_value(pods, "b")} | {
        key("a"): None, key("c"): None,
    }  # fmt: skip
    assert pods.take(Remove(item("b"))) == {key("b"): None}
    assert pods.take(Remove(b"{")) == {}
    assert pods.known == set()


def pods_value(pods: Held, name: str) -> object:
    return store().take(Store((item(name),)))[key(name)]


def test_what_cannot_be_read_is_named_and_keeps_its_last_version() -> None:
    pods = store()
    pods.take(Store((item("a"),), first=True, last=True))
    assert pods.take(Store((item("a", good=False),))) == {}
    assert [problem.key for problem in pods.problems] == [key("a")]
    assert pods.take(Store((item("a", good=False),), first=True, last=True)) == {}
    assert key("a") in pods.known
    pods.take(Store((item("a"),)))
    assert pods.problems == []


def test_a_list_with_an_object_without_a_name_takes_nothing_away() -> None:
    pods = store()
    pods.take(Store((item("a"),), first=True, last=True))
    assert pods.take(Store((b'{"metadata": 3}',), first=True, last=True)) == {}
    assert len(pods.problems) == 1
    assert pods.take(Store((), first=True, last=True)) == {key("a"): None}
    assert pods.problems == []


def test_what_is_waited_for() -> None:
    routes, policies = store("HTTPRoute"), store("AuthorizationPolicy")
    for one in (routes, policies):
        one.take(Report(Availability.DENIED, "no"))
    assert routes.waited_for is None
    assert "authorizationpolicies may not be read: no" in (policies.waited_for or "")
    policies.take(Report(Availability.ABSENT))
    assert policies.waited_for is None
    assert policies.problems == []


_TOLD = st.one_of(
    st.builds(
        Store,
        st.lists(st.builds(item, st.sampled_from("abc"), st.booleans()), max_size=3).map(tuple),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(Remove, st.sampled_from("abc").map(item)),
    st.sampled_from([Report(Availability.AWAY, "x"), Report(Availability.READ)]),
)


@given(st.lists(_TOLD, max_size=30), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=4))
def test_after_a_whole_list_its_readable_objects_are_held_and_unreadable_ones_told(
    told: list[Store | Remove | Report], last: list[tuple[str, bool]]
) -> None:
    pods = store()
    for one in told:
        pods.take(one)
    before = set(pods.known)
    pods.take(Store(tuple(item(name, good) for name, good in last), first=True, last=True))
    latest = dict(last)
    good = {key(name) for name, fine in last if fine}
    assert good <= pods.known <= {key(name) for name in latest}
    assert pods.known - good <= before, "kept from before"
    bad = {key(name) for name, fine in latest.items() if not fine}
    assert {problem.key for problem in pods.problems if problem.key} == bad

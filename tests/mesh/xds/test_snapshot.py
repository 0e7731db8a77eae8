from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.xds.snapshot import _REMEMBERED_CHANGES, _REMEMBERED_NAMES, Entry, Snapshot, entry

TYPE = "type.googleapis.com/test"
NAMES = [f"n{number}" for number in range(12)]


def make(name: str, content: str = "", aliases: tuple[str, ...] = (), under: tuple[str, ...] = ()) -> Entry:
    return entry(TYPE, name, content.encode(), aliases, under)


def test_versions_are_hashes_of_what_the_client_is_told() -> None:
    assert make("a", "x").version == make("b", "x").version
    assert make("a", "x").version != make("a", "y").version
    assert make("a", "x", ("alias",)).version != make("a", "x").version
    assert make("a", "x", (), ("group",)).version == make("a", "x").version


def test_an_entry_gives_its_payload_back() -> None:
    assert make("a", "some content").payload == b"some content"
    assert make("a", "").payload == b""


def test_no_difference_is_no_new_snapshot() -> None:
    one = Snapshot.empty().changed(TYPE, [make("a", "x")])
    assert one.serial == 1
    assert one.changed(TYPE, [make("a", "x")], ["absent"]) is one
    assert one.replaced(TYPE, [make("a", "x")]) is one


entries = st.builds(
    make,
    st.sampled_from(NAMES),
    st.sampled_from(["", "x", "y"]),
    st.lists(st.sampled_from(["a1", "a2"]), unique=True).map(tuple),
    st.lists(st.sampled_from(["g1", "g2", "n1"]), unique=True).map(tuple),
)
steps = st.lists(st.tuples(st.lists(entries, max_size=4), st.lists(st.sampled_from(NAMES), max_size=3)), max_size=20)


@settings(deadline=None)
@given(steps)
def test_indexes_and_change_logs_tell_the_truth(changes: list[tuple[list[Entry], list[str]]]) -> None:
    history = [Snapshot.empty()]
    for updated, removed in changes:
        history.append(history[-1].changed(TYPE, updated, removed))
    last = history[-1].of(TYPE)
    present = {name: last.get(name) for name in last.entries}
    for key in ("a1", "a2", "n1", "g1"):
        assert set(last.find(key)) == {n for n, e in present.items() if e and (n == key or key in e.aliases)}
        assert set(last.companions(key)) == {n for n, e in present.items() if e and key in e.found_under}
    for earlier in history:
        told = last.changes_since(earlier.serial)
        before = earlier.of(TYPE)
        assert told is not None
        assert {name for name in NAMES if before.get(name) != last.get(name)} <= told


@settings(deadline=None)
@given(st.lists(entries, max_size=8), st.lists(entries, max_size=8))
def test_replacing_leaves_just_the_new_entries(before: list[Entry], after: list[Entry]) -> None:
    snapshot = Snapshot.empty().replaced(TYPE, before).replaced(TYPE, after)
    offer = snapshot.of(TYPE)
    assert {name: offer.get(name) for name in offer.entries} == {each.name: each for each in after}


def test_old_changes_are_forgotten_and_said_to_be() -> None:
    snapshot = Snapshot.empty()
    for number in range(_REMEMBERED_CHANGES + 1):
        snapshot = snapshot.changed(TYPE, [make("a", str(number))])
    offer = snapshot.of(TYPE)
    assert len(offer.log) <= _REMEMBERED_CHANGES
    assert offer.changes_since(0) is None
    assert offer.changes_since(snapshot.serial - 10) == {"a"}
    assert offer.changes_since(snapshot.serial) == set()


def test_a_huge_change_pushes_the_others_out() -> None:
    snapshot = Snapshot.empty().changed(TYPE, [make("a", "x")])
    snapshot = snapshot.changed(TYPE, [make(str(number)) for number in range(_REMEMBERED_NAMES + 1)])
    assert snapshot.of(TYPE).changes_since(1) is None
    assert snapshot.of(TYPE).changes_since(2) == set()


def test_a_first_state_is_compared_and_not_remembered_name_by_name() -> None:
    first = Snapshot.empty().changed("t", [entry("t", f"r{number}", b"") for number in range(1000)])
    assert first.of("t").changes_since(0) is None
    second = first.changed("t", [entry("t", "r7", b"x")])
    assert second.of("t").changes_since(first.serial) == {"r7"}

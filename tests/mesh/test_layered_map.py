from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.layered_map import LayeredMap

keys = st.sampled_from([f"k{n}" for n in range(40)])
updates = st.lists(st.dictionaries(keys, st.none() | st.integers()), max_size=30)


@settings(deadline=None)
@given(updates)
def test_it_behaves_as_a_dict_and_older_copies_stay_as_they_were(changes: list[dict[str, int | None]]) -> None:
    current: LayeredMap[str, int] = LayeredMap({"k0": 0})
    expected: dict[str, int] = {"k0": 0}
    history = [(current, dict(expected))]
    for change in changes:
        current = current.changed(change)
        for key, value in change.items():
            if value is None:
                expected.pop(key, None)
            else:
                expected[key] = value
        history.append((current, dict(expected)))
    for copy, content in history:
        assert {key: copy.get(key) for key in copy} == content
        assert len(copy) == len(content)
        assert all((f"k{n}" in copy) is (f"k{n}" in content) for n in range(40))


def test_a_change_copies_a_small_layer_only() -> None:
    large = LayeredMap({str(number): number for number in range(100_000)})
    copy = large
    for number in range(200):
        copy = copy.changed({str(number): -1})
    assert copy._base is large._base
    assert len(copy._changes) == 200

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.testing.memory import texts_within
from resources.base import ObjectMeta
from resources.object_set import ObjectSet, with_identity
from resources.objects import KubernetesObject, Namespace, ObjectKey, Secret, ServiceAccount


def namespace(name: str, value: str = "") -> Namespace:
    return Namespace(metadata=ObjectMeta(name=name, labels={"v": value}))


def test_untouched_kinds_are_shared() -> None:
    account = ServiceAccount(metadata=ObjectMeta(name="a", namespace="n"))
    first = ObjectSet([namespace("n"), account])
    second = first.with_changes([namespace("m")])
    assert second._tables["ServiceAccount"] is first._tables["ServiceAccount"]
    assert first.with_changes([namespace("n")]) is first
    assert first.with_changes([], [ObjectKey("Pod", "x", "y")]) is first


def test_find_and_of_kind() -> None:
    objects = ObjectSet([namespace("n"), ServiceAccount(metadata=ObjectMeta(name="a", namespace="n"))])
    assert objects.find(Namespace, "", "n") == namespace("n")
    assert objects.find(ServiceAccount, "n", "b") is None
    assert [value.metadata.name for value in objects.of_kind(ServiceAccount)] == ["a"]
    assert len(objects) == 2


def test_identity_is_stable_and_version_follows_content() -> None:
    one = with_identity(namespace("n"))
    assert one == with_identity(namespace("n"))
    other = with_identity(namespace("n", "2"))
    assert one.metadata.uid == other.metadata.uid
    assert one.metadata.resource_version != other.metadata.resource_version
    assert with_identity(one) is one


def secret(name: str, text: str) -> Secret:
    return Secret(metadata=ObjectMeta(name=name, namespace="n"), data={"tls.key": text})


def test_of_a_secret_that_is_no_more_a_name_is_kept() -> None:
    first = ObjectSet([secret("a", "old"), secret("b", "kept"), namespace("n")])
    changed = first.with_changes([secret("a", "new")])
    second = changed.with_changes([], [secret("a", "").key])
    for later in (second, ObjectSet([secret("b", "kept"), namespace("n")])):
        [removed] = later.changes_since(changed).removed
        assert removed == Secret(metadata=ObjectMeta(name="a", namespace="n"))
    assert dict(second) == {value.key: value for value in (secret("b", "kept"), namespace("n"))}
    texts = texts_within(second)
    assert "kept" in texts
    assert {"old", "new"} & texts == set()
    assert "old" in texts_within(first)


_TABLES = st.dictionaries(st.sampled_from("abcde"), st.sampled_from("12"), max_size=5)


@given(_TABLES, _TABLES)
def test_changes_are_exactly_the_difference(before: dict[str, str], after: dict[str, str]) -> None:
    old = ObjectSet(namespace(*item) for item in before.items())
    new = old.with_changes(
        [namespace(*item) for item in after.items()], [namespace(name).key for name in before.keys() - after.keys()]
    )
    assert dict(new) == {value.key: value for value in (namespace(*item) for item in after.items())}
    changes = new.changes_since(old)
    rebuilt: ObjectSet = old.with_changes(changes.updated, [value.key for value in changes.removed])
    assert dict(rebuilt) == dict(new)
    updated: list[KubernetesObject] = list(changes.updated)
    assert all(old.get(value.key) != value for value in updated)
    assert {value.metadata.name for value in changes.removed} == before.keys() - after.keys()

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.policy import Match, Policy, PolicyAction, PolicyScope
from mesh.rbac import PolicySet
from mesh.state.policy_index import PolicyIndex
from mesh.testing.model import make_policy, make_workload

PORT = Match(destination_ports=(80,))


def keys(policies: PolicySet) -> set[str]:
    return {p.key for p in (*policies.deny, *policies.allow, *policies.dry_run)}


def test_a_set_is_global_plus_namespace_plus_references() -> None:
    index = PolicyIndex()
    index.put(make_policy("everywhere", PORT, namespace="istio-system", scope=PolicyScope.GLOBAL))
    index.put(make_policy("here", PORT))
    index.put(make_policy("elsewhere", PORT, namespace="other"))
    index.put(make_policy("chosen", PORT, scope=PolicyScope.WORKLOAD_SELECTOR))
    index.put(make_policy("not-chosen", PORT, scope=PolicyScope.WORKLOAD_SELECTOR))
    workload = make_workload("a", authorization_policies=("default/chosen", "default/here", "default/gone"))
    policies = index.set_for(workload)
    assert keys(policies) == {"istio-system/everywhere", "default/here", "default/chosen"}
    assert len(policies.allow) == 3
    assert policies.missing == ("default/gone",)


def test_the_set_is_one_object_until_something_relevant_changes() -> None:
    index = PolicyIndex()
    index.put(make_policy("here", PORT))
    workload = make_workload("a", authorization_policies=("other/chosen",))
    first = index.set_for(workload)
    index.put(make_policy("x", PORT, namespace="unrelated"))
    index.put(make_policy("y", PORT, scope=PolicyScope.WORKLOAD_SELECTOR))
    assert index.set_for(make_workload("b", authorization_policies=("other/chosen",))) is first
    index.put(make_policy("chosen", PORT, namespace="other", scope=PolicyScope.WORKLOAD_SELECTOR))
    second = index.set_for(workload)
    assert second is not first
    assert second.missing == ()
    index.remove("default/here")
    third = index.set_for(workload)
    assert keys(third) == {"other/chosen"}
    index.put(make_policy("all", PORT, scope=PolicyScope.GLOBAL, action=PolicyAction.DENY))
    assert keys(index.set_for(workload)) == {"other/chosen", "default/all"}


def test_a_policy_that_changes_its_scope_leaves_its_old_place() -> None:
    index = PolicyIndex()
    workload = make_workload("a")
    index.put(make_policy("p", PORT))
    assert keys(index.set_for(workload)) == {"default/p"}
    index.put(make_policy("p", PORT, scope=PolicyScope.WORKLOAD_SELECTOR))
    assert keys(index.set_for(workload)) == set()
    index.put(make_policy("p", PORT, scope=PolicyScope.GLOBAL))
    assert keys(index.set_for(workload)) == {"default/p"}
    index.remove("default/p")
    assert keys(index.set_for(workload)) == set()
    assert dict(index.by_key) == {}


policies_strategy = st.builds(
    make_policy, st.sampled_from("ab"), st.just(PORT), namespace=st.sampled_from(["default", "other"]),
    scope=st.sampled_from(PolicyScope), action=st.sampled_from(PolicyAction), dry_run=st.booleans(),
)
references = st.lists(st.sampled_from(["default/a", "default/b", "other/a", "other/c"]), max_size=2, unique=True)


@settings(max_examples=200, deadline=None)
@given(st.lists(policies_strategy | st.sampled_from(["default/a", "other/b"]), max_size=12), references)
def test_cached_sets_agree_with_a_fresh_index(steps: list[Policy | str], names: list[str]) -> None:
    index = PolicyIndex()
    workload = make_workload("w", authorization_policies=tuple(names))
    for step in steps:
        if isinstance(step, str):
            index.remove(step)
        else:
            index.put(step)
        fresh = PolicyIndex()
        for policy in index.by_key.values():
            fresh.put(policy)
        cached, expected = index.set_for(workload), fresh.set_for(workload)
        assert keys(cached) == keys(expected)
        assert cached.missing == expected.missing
        assert {p.key for p in cached.deny} == {p.key for p in expected.deny}
        assert {p.key for p in cached.dry_run} == {p.key for p in expected.dry_run}

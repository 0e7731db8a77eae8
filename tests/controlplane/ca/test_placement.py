from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controlplane.ca.placement import Placement
from resources.base import ObjectMeta
from resources.object_set import ObjectSet
from resources.objects import Pod
from resources.pod import Container, PodSpec, PodStatus


def pod(name: str, node: str, account: str, phase: str) -> Pod:
    spec = PodSpec(containers=(Container(name="c"),), node_name=node, service_account_name=account)
    return Pod(metadata=ObjectMeta(name=name, namespace="n"), spec=spec, status=PodStatus(phase=phase))


_PODS = st.builds(
    pod,
    st.sampled_from("abc"),
    st.sampled_from(["", "node1", "node2"]),
    st.sampled_from("xy"),
    st.sampled_from(["Pending", "Running", "Failed", "Succeeded"]),
)


@given(st.lists(st.lists(_PODS, max_size=4), max_size=5))
def test_only_live_scheduled_pods_count(steps: list[list[Pod]]) -> None:
    placement = Placement()
    for step in steps:
        objects = ObjectSet(step)
        placement.update(objects)
        live = {
            (one.spec.node_name, one.spec.account)
            for one in objects.of_kind(Pod)
            if one.status.phase in ("Pending", "Running")
        }
        for node in ("", "node1", "node2"):
            for account in "xy":
                expected = node != "" and (node, account) in live
                assert placement.runs_on("n", account, node) is expected
        assert not placement.runs_on("other", "x", "node1")

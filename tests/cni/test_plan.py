from hypothesis import given
from hypothesis import strategies as st

from cni.enrolment import EnrolmentRules, decide
from cni.plan import NOTHING_DONE, Actual, Step, plan, same_capture
from cni.pod import NodeView, PodFacts
from ebpf.pods import Exclusions, PodEntry
from mesh.addresses import IpBytes, parse_ip

RULES = EnrolmentRules()
IN = {"istio.io/dataplane-mode": "ambient"}
ENABLED = {"ambient.istio.io/redirection": "enabled"}
ADDRESSES = (parse_ip("10.244.1.7"), parse_ip("fd00::7"))
DONE = Actual(capture=PodEntry(ADDRESSES), verified=True, acknowledged=True)


def pod(uid: str = "u1", **changes: object) -> PodFacts:
    facts = {"uid": uid, "namespace": "shop", "name": f"pod-{uid}", "addresses": ADDRESSES, "annotations": ENABLED}
    return PodFacts(**(facts | changes))  # type: ignore[arg-type]


def view(*pods: PodFacts, labels: dict[str, str] | None = None, complete: bool = True) -> NodeView:
    namespaces = {"shop": IN if labels is None else labels}
    return NodeView(serial=1, complete=complete, pods={entry.key: entry for entry in pods}, namespaces=namespaces)


def steps(seen: NodeView, actual: dict[str, Actual], living: tuple[str, ...] = ()) -> list[tuple[Step, str]]:
    return [(action.step, action.uid) for action in plan(seen, actual, RULES, living)]


def test_nothing_to_do_when_all_is_so() -> None:
    assert steps(view(pod()), {"u1": DONE}) == []


def test_the_annotation_is_never_believed() -> None:
    assert steps(view(pod()), {}) == [(Step.ENROL, "u1")]
    assert steps(view(pod(annotations={})), {"u1": DONE}) == [(Step.ANNOTATE, "u1")]
    assert steps(view(pod(), labels={}), {}) == [(Step.CLEAR_ANNOTATION, "u1")]


def test_whatever_is_missing_is_made_again() -> None:
    for state in (
        Actual(capture=DONE.capture, verified=False, acknowledged=True),
        Actual(capture=DONE.capture, verified=True, acknowledged=False),
        Actual(capture=PodEntry(ADDRESSES[:1]), verified=True, acknowledged=True),
        Actual(capture=PodEntry(ADDRESSES, Exclusions(frozenset({1}))), verified=True, acknowledged=True),
        Actual(acknowledged=True),
    ):
        assert steps(view(pod()), {"u1": state}) == [(Step.ENROL, "u1")]


def test_a_pod_without_addresses_is_left_to_the_cni_plugin() -> None:
    assert steps(view(pod(addresses=())), {}) == []
    assert steps(view(pod(addresses=())), {"u1": DONE}) == []


def test_a_pod_that_is_being_deleted_is_kept_but_not_taken_in() -> None:
    assert steps(view(pod(leaving=True)), {}) == []
    assert steps(view(pod(leaving=True)), {"u1": DONE}) == []
    assert steps(view(pod(leaving=True)), {"u1": Actual(capture=DONE.capture)}) == [(Step.ENROL, "u1")]


def test_a_pod_leaves_when_its_label_goes_or_it_ends_or_is_gone() -> None:
    assert steps(view(pod(), labels={}), {"u1": DONE}) == [(Step.UNENROL, "u1")]
    assert steps(view(pod(ended=True)), {"u1": DONE}) == [(Step.UNENROL, "u1")]
    assert steps(view(), {"u1": DONE}) == [(Step.UNENROL, "u1")]


def test_absence_from_an_incomplete_view_means_nothing() -> None:
    assert steps(view(complete=False), {"u1": DONE}) == []
    unread = NodeView(serial=1, complete=False, pods={pod().key: pod()}, namespaces={})
    assert steps(unread, {"u1": DONE}) == []
    # In a complete view a namespace without an object has no labels.
    known = NodeView(serial=1, complete=True, pods={pod().key: pod()}, namespaces={})
    assert steps(known, {"u1": DONE}) == [(Step.UNENROL, "u1")]


def test_a_pod_that_is_gone_stays_while_its_sandbox_lives() -> None:
    assert steps(view(), {"u1": DONE}, living=("u1",)) == []


def test_departures_come_first() -> None:
    done = {"old": DONE}
    assert steps(view(pod("new")), done) == [(Step.UNENROL, "old"), (Step.ENROL, "new")]


def test_the_order_of_addresses_is_no_difference() -> None:
    assert same_capture(PodEntry(ADDRESSES), PodEntry(ADDRESSES[::-1]))
    assert not same_capture(PodEntry(ADDRESSES), PodEntry(ADDRESSES[:1]))


pods = st.lists(
    st.builds(
        pod,
        st.sampled_from(["a", "b", "c"]),
        labels=st.sampled_from([{}, IN, {"istio.io/dataplane-mode": "none"}]),
        annotations=st.sampled_from([{}, ENABLED, {"ambient.istio.io/redirection": "pending"}]),
        addresses=st.sampled_from([(), ADDRESSES, ADDRESSES[:1]]),
        ended=st.booleans(),
        host_network=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda entry: entry.uid,
)
states = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.builds(
        Actual,
        capture=st.sampled_from([None, PodEntry(ADDRESSES), PodEntry(ADDRESSES[:1])]),
        verified=st.booleans(),
        acknowledged=st.booleans(),
    ),
)


def obeyed(
    seen: NodeView, actual: dict[str, Actual], addresses: tuple[IpBytes, ...]
) -> tuple[NodeView, dict[str, Actual]]:
    """The world after the plan was carried out without failures."""
    after, by_name = dict(actual), dict(seen.pods)
    for action in plan(seen, actual, RULES):
        annotation: dict[str, str] = {}
        match action.step:
            case Step.ENROL:
                assert action.pod is not None
                entry = PodEntry(action.pod.addresses or addresses)
                after[action.uid], annotation = Actual(capture=entry, verified=True, acknowledged=True), ENABLED
            case Step.ANNOTATE:
                annotation = ENABLED
            case Step.UNENROL:
                after.pop(action.uid)
        if action.pod is not None:
            by_name[action.pod.key] = pod(
                action.uid,
                labels=action.pod.labels,
                annotations=annotation,
                addresses=action.pod.addresses,
                ended=action.pod.ended,
                host_network=action.pod.host_network,
            )
    return NodeView(serial=2, complete=True, pods=by_name, namespaces=seen.namespaces), after


@given(pods, states, st.sampled_from([{}, IN]))
def test_a_plan_carried_out_leaves_nothing_to_do_and_exactly_the_selected_captured(
    listed: list[PodFacts], actual: dict[str, Actual], labels: dict[str, str]
) -> None:
    seen = view(*listed, labels=labels)
    seen, actual = obeyed(seen, actual, ADDRESSES)
    assert plan(seen, actual, RULES) == []
    captured = {uid for uid, state in actual.items() if state != NOTHING_DONE and state.capture is not None}
    selected = {entry.uid for entry in listed if decide(entry, labels, RULES).name == "SELECTED"}
    without_network = {entry.uid for entry in listed if not entry.addresses}
    assert captured <= selected
    assert selected - captured <= without_network

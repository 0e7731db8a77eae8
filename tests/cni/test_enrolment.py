import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.enrolment import Enrolment, EnrolmentRules, PodSelector, decide, exclusions_of
from cni.pod import PodFacts, checked_uid
from ebpf.pods import Exclusions
from mesh.addresses import parse_cidr
from mesh.errors import InvalidValue

LABEL = "istio.io/dataplane-mode"
RULES = EnrolmentRules(own_pods=(PodSelector("ambimesh-system", {"app": "ztunnel"}),))

modes = st.sampled_from([None, "ambient", "none", "sidecar", ""])


def labelled(mode: str | None) -> dict[str, str]:
    return {} if mode is None else {LABEL: mode}


def pod(mode: str | None = None, **changes: object) -> PodFacts:
    facts = {"uid": "u", "namespace": "shop", "name": "client", "labels": labelled(mode)} | changes
    return PodFacts(**facts)  # type: ignore[arg-type]


@given(modes, modes)
def test_the_pods_label_comes_before_the_namespaces(of_pod: str | None, of_namespace: str | None) -> None:
    selected = decide(pod(of_pod), labelled(of_namespace), RULES) is Enrolment.SELECTED
    assert selected == (of_pod == "ambient" or (of_namespace == "ambient" and of_pod != "none"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"host_network": True}, Enrolment.HOST_NETWORK),
        ({"ended": True}, Enrolment.ENDED),
        ({"namespace": "kube-system"}, Enrolment.EXCLUDED_NAMESPACE),
        ({"annotations": {"sidecar.istio.io/status": "{}"}}, Enrolment.SIDECAR),
        ({"annotations": {"linkerd.io/proxy-version": "edge-26.1.1"}}, Enrolment.SIDECAR),
        ({"namespace": "ambimesh-system", "labels": {LABEL: "ambient", "app": "ztunnel"}}, Enrolment.OWN_POD),
    ],
)
def test_some_pods_never_are(changes: dict[str, object], reason: Enrolment) -> None:
    assert decide(pod("ambient", **changes), labelled("ambient"), RULES) is reason


def test_our_labels_in_somebody_elses_namespace_mean_nothing() -> None:
    pretender = pod(labels={LABEL: "ambient", "app": "ztunnel"})
    assert decide(pretender, {}, RULES) is Enrolment.SELECTED


def test_the_reason_for_staying_out_is_told_apart() -> None:
    assert decide(pod("none"), labelled("ambient"), RULES) is Enrolment.OPTED_OUT
    assert decide(pod(), {}, RULES) is Enrolment.NOT_SELECTED


def test_exclusions_are_read_and_slips_exclude_nothing() -> None:
    exclusions, complaints = exclusions_of(
        {
            "ambimesh.dev/exclude-outbound-ports": " 5432, 6379,,x,0,65536,-1,99999999999999999999",
            "ambimesh.dev/exclude-inbound-ports": "9090",
            "ambimesh.dev/exclude-outbound-cidrs": "10.0.0.0/8, fd00::/8,300.0.0.0/8,10.0.0.0/40",
        }
    )
    assert exclusions == Exclusions(
        outbound_ports=frozenset({5432, 6379}),
        inbound_ports=frozenset({9090}),
        outbound_cidrs=frozenset({parse_cidr("10.0.0.0/8"), parse_cidr("fd00::/8")}),
    )
    assert len(complaints) == 7


@given(st.dictionaries(st.sampled_from(["ambimesh.dev/exclude-outbound-ports", "ambimesh.dev/exclude-outbound-cidrs"]),
                       st.text(max_size=40)))
def test_any_annotation_gives_ports_and_networks_that_can_be(annotations: dict[str, str]) -> None:
    exclusions, _ = exclusions_of(annotations)
    assert all(0 < port < 65536 for port in exclusions.outbound_ports)
    assert all(0 <= cidr.length <= 128 for cidr in exclusions.outbound_cidrs)


@given(st.text(max_size=140))
def test_a_uid_never_leaves_its_folder(uid: str) -> None:
    try:
        checked = checked_uid(uid)
    except InvalidValue:
        return
    assert checked == uid
    assert "/" not in uid
    assert not uid.startswith(".")
    assert uid

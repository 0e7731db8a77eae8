from __future__ import annotations

from resources.kube.kinds import API_KINDS, Need
from resources.objects import KINDS


def test_every_kind_of_object_has_its_place_in_the_api() -> None:
    assert API_KINDS.keys() == KINDS.keys()


def test_paths() -> None:
    assert API_KINDS["Pod"].path("v1") == "/api/v1/pods"
    assert API_KINDS["Pod"].path("v1", "n", "p") == "/api/v1/namespaces/n/pods/p"
    assert API_KINDS["Node"].path("v1", "", "n") == "/api/v1/nodes/n"
    route = API_KINDS["HTTPRoute"]
    assert route.path("v1", "n") == "/apis/gateway.networking.k8s.io/v1/namespaces/n/httproutes"
    assert route.api_version("v1") == "gateway.networking.k8s.io/v1"
    assert API_KINDS["Pod"].api_version("v1") == "v1"


def test_versions_are_those_the_structures_admit() -> None:
    assert API_KINDS["TLSRoute"].versions == ("v1", "v1alpha3", "v1alpha2")
    assert API_KINDS["ReferenceGrant"].versions == ("v1beta1", "v1")


def test_nothing_is_said_without_pods_and_policies() -> None:
    required = {kind.name for kind in API_KINDS.values() if kind.need is Need.REQUIRED}
    assert {"Pod", "Service", "EndpointSlice", "Namespace", "AuthorizationPolicy", "PeerAuthentication"} <= required
    assert not required & {"HTTPRoute", "Node", "Telemetry"}

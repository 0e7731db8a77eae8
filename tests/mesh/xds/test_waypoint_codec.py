from __future__ import annotations

import dataclasses
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.addresses import parse_cidr
from mesh.errors import InvalidMessage
from mesh.model.http_route import (
    Backend,
    Cors,
    Fault,
    Fraction,
    HeaderChange,
    HttpRoute,
    Mirror,
    NamedMatch,
    PathMatch,
    PathMatchKind,
    PathRewrite,
    RateLimit,
    Redirect,
    RequestMatch,
    Retry,
    Rewrite,
    SessionPersistence,
    TextMatch,
    TextMatchKind,
)
from mesh.model.request_policy import (
    AddressAttribute,
    AddressCondition,
    Attribute,
    Condition,
    ExternalAuthorizer,
    JwtRule,
    PortCondition,
    RequestAction,
    RequestAuthentication,
    RequestClause,
    RequestPolicy,
    RequestRule,
)
from mesh.model.upstream_policy import (
    Algorithm,
    Balancing,
    ClientCertificate,
    HashKey,
    HashKind,
    HealthCheck,
    LocalityShare,
    OutlierDetection,
    Subset,
    TrafficPolicy,
    UpstreamPolicy,
    UpstreamTls,
)
from mesh.model.waypoint import (
    Destination,
    DestinationPort,
    LogFormat,
    Metric,
    SpanCollector,
    SpanTag,
    StreamRoute,
    TagSource,
    Telemetry,
    WorkloadLabels,
)
from mesh.model.workload import AppProtocol
from mesh.xds.waypoint_codec import decode_destination, decode_labels, encode_destination, encode_labels

KEY = "demo/web.demo.svc.cluster.local"
TEXT = TextMatch(TextMatchKind.REGEX, "v[0-9]+", ignore_case=True, inverted=True)
FULL = Destination(
    key=KEY,
    waypoint="demo/waypoint",
    hosts=("web", "web.demo"),
    ports=(
        DestinationPort(
            number=80,
            protocol=AppProtocol.HTTP11,
            routes=(
                HttpRoute(
                    name="demo/web/0",
                    matches=(
                        RequestMatch(
                            path=PathMatch(PathMatchKind.PREFIX, "/a"),
                            method=TextMatch(TextMatchKind.EXACT, "GET"),
                            headers=(NamedMatch("x-version", TEXT),),
                            query=(NamedMatch("q", TextMatch(TextMatchKind.PRESENT)),),
                            source_namespaces=("demo",),
                            source_labels=(("app", "client"),),
                        ),
                    ),
                    request_headers=HeaderChange(set=(("a", "b"),), remove=("c",)),
                    redirect=Redirect(status=301, path=PathRewrite(prefix="/b")),
                    rewrite=Rewrite(authority="x", path=PathRewrite(regex="a", substitution=r"\1")),
                    cors=Cors(allow_origins=(TEXT,)),
                    fault=Fault(delay_seconds=0.5, abort_status=503, abort_share=Fraction(1, 1000)),
                    rate_limits=(RateLimit(name="r", tokens=5, interval_seconds=1.0, by_header="x-user", shared=True),),
                    mirrors=(Mirror(backend=Backend(service=KEY, port=81), share=Fraction(5)),),
                    backends=(Backend(service=KEY, port=80, weight=9, subset="v2", invalid="no ReferenceGrant"),),
                    timeout_seconds=1.5,
                    retry=Retry(attempts=2, statuses=(503,), conditions=("reset",)),
                    session=SessionPersistence(name="s"),
                ),
            ),
            consumer_routes=(("other", (HttpRoute(name="other/x/0"),)),),
            stream_routes=(StreamRoute(name="t", server_names=("*.example.com",)),),
        ),
    ),
    policies=(
        RequestPolicy(
            key="demo/p",
            action=RequestAction.CUSTOM,
            authorizer="opa",
            rules=(
                RequestRule(
                    (
                        (
                            RequestClause(
                                conditions=(Condition(attribute=Attribute.CLAIM, name="groups", values=(TEXT,)),),
                                addresses=(
                                    AddressCondition(
                                        attribute=AddressAttribute.REMOTE, networks=(parse_cidr("10.0.0.0/8"),)
                                    ),
                                ),
                                ports=(PortCondition(ports=(80,), inverted=True),),
                            ),
                        ),
                    )
                ),
            ),
        ),
    ),
    authentication=(
        RequestAuthentication(key="demo/jwt", rules=(JwtRule(issuer="https://issuer", audiences=("a",)),)),
    ),
    authorizers=(ExternalAuthorizer(name="opa", service=KEY, port=9191, grpc=True),),
    upstreams=(
        UpstreamPolicy(
            service=KEY,
            policy=TrafficPolicy(
                balancing=Balancing(
                    algorithm=Algorithm.RING_HASH,
                    hash_keys=(HashKey(kind=HashKind.COOKIE, name="c", cookie_seconds=0.0),),
                    locality_shares=(LocalityShare(source="a/*", shares=(("b/*", 100),)),),
                ),
                outlier=OutlierDetection(),
                health_check=HealthCheck(path="/healthz"),
                tls=UpstreamTls(server_name="x", shown=ClientCertificate(chain="c", private_key="k")),
            ),
            ports=((80, TrafficPolicy()),),
            subsets=(Subset(name="v2", labels=(("version", "v2"),)),),
        ),
    ),
    telemetry=Telemetry(
        log_format=LogFormat.JSON,
        sampling_percent=1.0,
        collector=SpanCollector(service="o/c", port=4318),
        tags=(SpanTag(name="a", source=TagSource.HEADER, value="b"),),
        metrics_off=(Metric.REQUEST_SIZE,),
    ),
)


def test_everything_a_destination_holds_survives() -> None:
    assert decode_destination(encode_destination(FULL)) == FULL


def test_the_example_sets_every_part_of_the_model() -> None:
    """So that a field of a type that JSON cannot carry is noticed here."""
    seen: set[type] = set()

    def walk(value: object) -> None:
        if dataclasses.is_dataclass(value):
            seen.add(type(value))
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name))
        elif isinstance(value, tuple):
            for inner in value:
                walk(inner)

    walk(FULL)
    named: set[type] = set()

    def collect(kind: object) -> None:
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in named:
            named.add(kind)
            for hint in typing.get_type_hints(kind).values():
                collect(hint)
        for argument in typing.get_args(kind):
            collect(argument)

    collect(Destination)
    missing = {kind.__name__ for kind in named - seen}
    assert missing <= {"DirectResponse", "TokenSource", "ConnectionPool"} - {kind.__name__ for kind in seen}


def test_a_name_tells_the_waypoint_and_the_destination() -> None:
    assert FULL.name == f"demo/waypoint|{KEY}"


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20)))
def test_labels_survive(labels: dict[str, str]) -> None:
    value = WorkloadLabels(uid="Kubernetes//Pod/demo/web", labels=tuple(sorted(labels.items())))
    assert decode_labels(encode_labels(value)) == value


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "truncated"),
        (b"[]", "object"),
        (b'{"key":"a"}', "waypoint"),
        (b'{"key":"a","waypoint":"b","ports":[{"number":"80"}]}', r"\$.ports\[0\].number"),
        (b'{"key":"a","waypoint":"b","policies":[{"key":"p","action":"maybe"}]}', r"\$.policies\[0\].action"),
    ],
)
def test_what_is_no_destination_is_refused_with_its_place(payload: bytes, field: str) -> None:
    with pytest.raises(InvalidMessage, match=field):
        decode_destination(payload)


def test_a_field_of_another_version_is_refused_not_ignored() -> None:
    payload = encode_labels(WorkloadLabels(uid="a", labels=()))
    assert decode_labels(payload).uid == "a"
    with pytest.raises(InvalidMessage, match="other fields"):
        decode_labels(payload[:-1] + b',"denied":true}')


def test_a_resource_is_bounded() -> None:
    with pytest.raises(InvalidMessage, match="more than"):
        decode_labels(b" " * (16 * 1024 * 1024 + 1))

"""What waypoints are told survives the way there: the model is its own schema, as JSON."""

from __future__ import annotations

import msgspec

from mesh.addresses import parse_cidr
from mesh.model.http_route import (
    Backend,
    Cors,
    DirectResponse,
    Fault,
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

TEXT = TextMatch(TextMatchKind.REGEX, "a.*", ignore_case=True, inverted=True)
BACKEND = Backend(service="a/b", port=80, weight=3, subset="s", request_headers=HeaderChange(set=(("x", "y"),)))
ROUTE = HttpRoute(
    name="a/b/0",
    matches=(
        RequestMatch(
            path=PathMatch(PathMatchKind.PREFIX, "/a"),
            method=TEXT,
            headers=(NamedMatch("x", TEXT),),
            source_labels=(("k", "v"),),
        ),
    ),
    redirect=Redirect(path=PathRewrite(prefix="/")),
    direct_response=DirectResponse(status=200, headers=(("a", "b"),)),
    rewrite=Rewrite(authority="h", path=PathRewrite(regex="a", substitution="b")),
    cors=Cors(allow_origins=(TEXT,), max_age_seconds=5),
    fault=Fault(delay_seconds=1.5),
    rate_limits=(RateLimit(name="r", tokens=1, interval_seconds=1.0, by_header="h"),),
    mirrors=(Mirror(backend=BACKEND),),
    backends=(BACKEND,),
    retry=Retry(attempts=2, statuses=(503,)),
    session=SessionPersistence(name="s"),
)
POLICY = RequestPolicy(
    key="a/p",
    action=RequestAction.CUSTOM,
    rules=(
        RequestRule(
            (
                (
                    RequestClause(
                        conditions=(Condition(attribute=Attribute.CLAIM, values=(TEXT,), name="a.b"),),
                        addresses=(
                            AddressCondition(attribute=AddressAttribute.REMOTE, networks=(parse_cidr("10.0.0.0/8"),)),
                        ),
                        ports=(PortCondition(ports=(80,), inverted=True),),
                    ),
                ),
            )
        ),
    ),
    authorizer="x",
)
UPSTREAM = UpstreamPolicy(
    service="a/b",
    policy=TrafficPolicy(
        balancing=Balancing(
            algorithm=Algorithm.MAGLEV,
            hash_keys=(HashKey(kind=HashKind.COOKIE, name="c", cookie_seconds=1.0),),
            locality_shares=(LocalityShare(source="*", shares=(("a", 100),)),),
        ),
        outlier=OutlierDetection(),
        health_check=HealthCheck(path="/h"),
        tls=UpstreamTls(server_name="n", ca_certificates=""),
    ),
    ports=((80, TrafficPolicy()),),
    subsets=(Subset(name="s", labels=(("v", "1"),)),),
)
DESTINATION = Destination(
    key="a/web.a",
    waypoint="a/w",
    hosts=("web.a",),
    ports=(
        DestinationPort(
            number=80,
            protocol=AppProtocol.GRPC,
            routes=(ROUTE,),
            consumer_routes=(("b", (ROUTE,)),),
            stream_routes=(StreamRoute(name="t", server_names=("*.x",), backends=(BACKEND,)),),
        ),
    ),
    policies=(POLICY,),
    authentication=(RequestAuthentication(key="a/j", rules=(JwtRule(issuer="i"),)),),
    authorizers=(ExternalAuthorizer(name="x", service="a/b", port=1, grpc=True),),
    upstreams=(UPSTREAM,),
    telemetry=Telemetry(
        log_format=LogFormat.JSON,
        collector=SpanCollector(service="o/c", port=4318),
        tags=(SpanTag(name="a", source=TagSource.HEADER, value="b", default="c"),),
        metrics_off=(Metric.REQUEST_COUNT,),
        labels_off=("source_app",),
    ),
)


def test_a_destination_is_the_same_after_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(DESTINATION), type=Destination) == DESTINATION
    labels = WorkloadLabels(uid="u", labels=(("a", "b"),))
    assert msgspec.json.decode(msgspec.json.encode(labels), type=WorkloadLabels) == labels


def test_a_destination_of_two_waypoints_is_two_resources() -> None:
    assert DESTINATION.name == "a/w|a/web.a"

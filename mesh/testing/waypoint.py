"""A destination of a waypoint that has everything a destination can have."""

from __future__ import annotations

from mesh.addresses import parse_cidr
from mesh.model.http_route import (
    Backend,
    Cors,
    DirectResponse,
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
)
from mesh.model.workload import AppProtocol

_KEY = "demo/web.demo.svc.cluster.local"
_TEXT = TextMatch(TextMatchKind.REGEX, "v[0-9]+", ignore_case=True, inverted=True)
FULL_DESTINATION = Destination(
    key=_KEY,
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
                            headers=(NamedMatch("x-version", _TEXT),),
                            query=(NamedMatch("q", TextMatch(TextMatchKind.PRESENT)),),
                            source_namespaces=("demo",),
                            source_labels=(("app", "client"),),
                        ),
                    ),
                    request_headers=HeaderChange(set=(("a", "b"),), remove=("c",)),
                    redirect=Redirect(status=301, path=PathRewrite(prefix="/b")),
                    direct_response=DirectResponse(status=200, headers=(("a", "b"),)),
                    rewrite=Rewrite(authority="x", path=PathRewrite(regex="a", substitution=r"\1")),
                    cors=Cors(allow_origins=(_TEXT,)),
                    fault=Fault(delay_seconds=0.5, abort_status=503, abort_share=Fraction(1, 1000)),
                    rate_limits=(RateLimit(name="r", tokens=5, interval_seconds=1.0, by_header="x-user", shared=True),),
                    mirrors=(Mirror(backend=Backend(service=_KEY, port=81), share=Fraction(5)),),
                    backends=(Backend(service=_KEY, port=80, weight=9, subset="v2", invalid="no ReferenceGrant"),),
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
                                conditions=(Condition(attribute=Attribute.CLAIM, name="groups", values=(_TEXT,)),),
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
    authorizers=(ExternalAuthorizer(name="opa", service=_KEY, port=9191, grpc=True),),
    upstreams=(
        UpstreamPolicy(
            service=_KEY,
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
"""Sets every part of the model of a destination, most of them to other than their defaults."""

"""DestinationRule: how backends are treated."""

from __future__ import annotations

import pytest

from controlplane.testing.routes import V1, destination, findings, route, translated
from controlplane.translate.layer7.destination_rules import upstream_policy
from controlplane.translate.translator import Translator
from mesh.model.upstream_policy import (
    Algorithm,
    Balancing,
    ConnectionPool,
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

KEY = "shop/v1.shop.svc.cluster.local"


def rule(spec: str, *, name: str = "dr", namespace: str = "shop", host: str = "v1", meta: str = "") -> str:
    return f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}{meta}}}
spec: {{host: {host}, {spec}}}
"""


def upstream(translator: Translator, key: str = KEY) -> UpstreamPolicy | None:
    """What the waypoint of ``web``, which has a route to ``v1``, is told of a service."""
    found = [one for one in destination(translator).upstreams if one.service == key]
    return found[0] if found else None


def policy(spec: str) -> TrafficPolicy:
    found = upstream(translated(route(f"[{{{V1}}}]") + rule(f"trafficPolicy: {{{spec}}}")))
    return found.policy if found else TrafficPolicy()


@pytest.mark.parametrize(
    ("written", "balancing"),
    [
        ("simple: ROUND_ROBIN", Balancing(algorithm=Algorithm.ROUND_ROBIN)),
        ("simple: RANDOM", Balancing(algorithm=Algorithm.RANDOM)),
        ("simple: LEAST_CONN", Balancing()),
        ("simple: PASSTHROUGH", Balancing(algorithm=Algorithm.PASSTHROUGH)),
        (
            "consistentHash: {httpHeaderName: X-User, minimumRingSize: 64}",
            Balancing(
                algorithm=Algorithm.RING_HASH, hash_keys=(HashKey(kind=HashKind.HEADER, name="x-user"),), ring_size=64
            ),
        ),
        (
            "consistentHash: {httpCookie: {name: c, path: /p, ttl: 60s}, maglev: {tableSize: 1009}}",
            Balancing(
                algorithm=Algorithm.MAGLEV,
                hash_keys=(HashKey(kind=HashKind.COOKIE, name="c", cookie_path="/p", cookie_seconds=60.0),),
                table_size=1009,
            ),
        ),
        (
            "consistentHash: {useSourceIp: true}",
            Balancing(algorithm=Algorithm.RING_HASH, hash_keys=(HashKey(kind=HashKind.SOURCE_ADDRESS),)),
        ),
        (
            "consistentHash: {httpQueryParameterName: q, ringHash: {minimumRingSize: 8}}",
            Balancing(
                algorithm=Algorithm.RING_HASH, hash_keys=(HashKey(kind=HashKind.QUERY, name="q"),), ring_size=8
            ),
        ),
        ("warmup: {duration: 30s}", Balancing(slow_start_seconds=30.0)),
        ("warmupDurationSecs: 1m", Balancing(slow_start_seconds=60.0)),
        (
            "localityLbSetting: {distribute: [{from: a/*, to: {'b/*': 20, 'a/*': 80}}], failover: [{from: a, to: b}]}",
            Balancing(
                locality_shares=(LocalityShare(source="a/*", shares=(("a/*", 80), ("b/*", 20))),),
                failover=(("a", "b"),),
            ),
        ),
        ("localityLbSetting: {enabled: false}", Balancing(locality_enabled=False)),
    ],
)
def test_balancing(written: str, balancing: Balancing) -> None:
    assert policy(f"loadBalancer: {{{written}}}").balancing == balancing


def test_limits() -> None:
    written = (
        "connectionPool: {tcp: {maxConnections: 7, connectTimeout: 500ms}, http: {http1MaxPendingRequests: 3, "
        "http2MaxRequests: 9, maxRequestsPerConnection: 2, maxRetries: 1, idleTimeout: 5s, h2UpgradePolicy: UPGRADE}}"
    )
    assert policy(written).pool == ConnectionPool(
        max_connections=7,
        max_pending_requests=3,
        max_requests=9,
        max_retries=1,
        max_requests_per_connection=2,
        idle_seconds=5.0,
        connect_seconds=0.5,
        upgrade_to_http2=True,
    )
    assert policy("connectionPool: {}").pool == ConnectionPool()


def test_outliers() -> None:
    assert policy("outlierDetection: {}").outlier == OutlierDetection()
    assert policy("outlierDetection: {consecutiveErrors: 3}").outlier == OutlierDetection(consecutive_5xx=3)
    written = (
        "outlierDetection: {consecutive5xxErrors: 0, consecutiveGatewayErrors: 4, splitExternalLocalOriginErrors: true,"
        " consecutiveLocalOriginFailures: 2, interval: 1s, baseEjectionTime: 3m, maxEjectionPercent: 50, "
        "minHealthPercent: 20}"
    )
    assert policy(written).outlier == OutlierDetection(
        consecutive_5xx=0,
        consecutive_gateway_errors=4,
        split_local_errors=True,
        consecutive_local_failures=2,
        interval_seconds=1.0,
        base_ejection_seconds=180.0,
        max_ejection_percent=50,
        min_health_percent=20,
    )


@pytest.mark.parametrize(
    ("written", "tls", "told"),
    [
        ("mode: DISABLE", None, False),
        ("mode: ISTIO_MUTUAL", None, True),
        ("mode: SIMPLE", UpstreamTls(server_name="v1.shop.svc.cluster.local"), False),
        (
            "mode: SIMPLE, sni: a.example, subjectAltNames: [b.example]",
            UpstreamTls(server_name="a.example", subject_alt_names=("b.example",)),
            False,
        ),
        ("mode: MUTUAL, sni: a, credentialName: c", UpstreamTls(server_name="a", ca_certificates=""), True),
        ("mode: SIMPLE, sni: a, caCertificates: /etc/ca.pem", UpstreamTls(server_name="a", ca_certificates=""), True),
        ("mode: SIMPLE, sni: a, insecureSkipVerify: true", UpstreamTls(server_name="a"), True),
    ],
)
def test_tls_is_never_taken_away(written: str, tls: UpstreamTls | None, told: bool) -> None:
    translator = translated(route(f"[{{{V1}}}]") + rule(f"trafficPolicy: {{tls: {{{written}}}}}"))
    found = upstream(translator)
    assert (found.policy.tls if found else None) == tls
    assert bool(findings(translator, "DestinationRule")) is told


def test_ports_stand_alone_and_subsets_inherit() -> None:
    spec = (
        "trafficPolicy: {loadBalancer: {simple: RANDOM}, outlierDetection: {}, portLevelSettings: "
        "[{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]}, "
        "subsets: [{name: a, labels: {v: '1'}}, "
        "{name: b, labels: {w: '2', v: '2'}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]"
    )
    robin = Balancing(algorithm=Algorithm.ROUND_ROBIN)
    assert upstream(translated(route(f"[{{{V1}}}]") + rule(spec))) == UpstreamPolicy(
        service=KEY,
        policy=TrafficPolicy(balancing=Balancing(algorithm=Algorithm.RANDOM), outlier=OutlierDetection()),
        ports=((80, TrafficPolicy(balancing=robin)),),
        subsets=(
            Subset(name="a", labels=(("v", "1"),)),
            Subset(
                name="b",
                labels=(("v", "2"), ("w", "2")),
                policy=TrafficPolicy(balancing=robin, outlier=OutlierDetection()),
            ),
        ),
    )


def test_several_rules_of_one_host() -> None:
    def made(day: int) -> str:
        return f", creationTimestamp: '2025-01-0{day}T00:00:00Z'"

    random = rule("trafficPolicy: {loadBalancer: {simple: RANDOM}}, subsets: [{name: a}]", name="y", meta=made(2))
    robin = rule("trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}, subsets: [{name: b}]", name="z", meta=made(1))
    found = upstream(translated(route(f"[{{{V1}}}]") + random + robin))
    assert found is not None
    assert found.policy.balancing.algorithm is Algorithm.ROUND_ROBIN
    assert [one.name for one in found.subsets] == ["b", "a"]


def test_whose_rules_count() -> None:
    host = "v1.shop.svc.cluster.local"
    random = "trafficPolicy: {loadBalancer: {simple: RANDOM}}"
    base = route(f"[{{{V1}}}]")

    def algorithm(text: str) -> Algorithm | None:
        found = upstream(translated(base + text))
        return found.policy.balancing.algorithm if found else None

    root = rule("trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}", namespace="istio-system", host=host)
    assert algorithm(rule(random, namespace="b", host=host)) is None
    assert algorithm(root) is Algorithm.PASSTHROUGH
    assert algorithm(root + rule(random)) is Algorithm.RANDOM
    assert algorithm(rule(random, host="'*.svc.cluster.local'")) is Algorithm.RANDOM
    assert algorithm(rule(random + ", workloadSelector: {matchLabels: {a: b}}")) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (rule("trafficPolicy: {}", host="absent"), "is no service of the mesh"),
        (rule("trafficPolicy: {}", namespace="b", host="v1.shop.svc.cluster.local"), "only rules there count"),
        (rule("workloadSelector: {matchLabels: {a: b}}"), "workloadSelector"),
        (rule("trafficPolicy: {tunnel: {targetHost: x, targetPort: 1}}"), "trafficPolicy.tunnel"),
        (rule("trafficPolicy: {retryBudget: {percent: 20}}"), "retryBudget"),
        (rule("trafficPolicy: {connectionPool: {http: {useClientProtocol: true}}}"), "useClientProtocol"),
        (rule("trafficPolicy: {loadBalancer: {warmup: {aggression: 2}}}"), "aggression"),
        (rule("subsets: [{name: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}}]"), "portLevelSettings"),
    ],
)
def test_what_has_no_effect_is_told(text: str, told: str) -> None:
    assert any(told in finding for finding in findings(translated(text), "DestinationRule"))


def test_nothing_said_is_nothing_sent() -> None:
    assert upstream(translated(route(f"[{{{V1}}}]"))) is None
    assert upstream(translated(route(f"[{{{V1}}}]") + rule("trafficPolicy: {}"))) is None
    assert upstream_policy.__doc__


def test_health_checks_hold_for_every_part_of_a_service() -> None:
    checked = """
---
apiVersion: v1
kind: Service
metadata:
  name: checked
  namespace: shop
  annotations: {ambimesh.dev/health-check: "{path: /healthz, port: 8080, interval: 5s, unhealthyThreshold: 2}"}
spec: {ports: [{name: http, port: 80}]}
"""
    spec = (
        "trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}, subsets: [{name: a}, "
        "{name: b, trafficPolicy: {}}]"
    )
    text = route("[{backendRefs: [{name: checked, port: 80}]}]") + checked + rule(spec, host="checked")
    found = upstream(translated(text), "shop/checked.shop.svc.cluster.local")
    assert found is not None
    check = HealthCheck(path="/healthz", port=8080, interval_seconds=5.0, unhealthy_threshold=2)
    policies = [found.policy, *(each for _, each in found.ports), *(one.policy for one in found.subsets if one.policy)]
    assert [each.health_check for each in policies] == [check] * 3

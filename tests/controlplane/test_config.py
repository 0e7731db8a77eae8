"""The configuration file, as far as it holds more than plain values."""

from __future__ import annotations

import pytest

from controlplane.config import OperatorSettings
from mesh import config
from mesh.errors import ConfigurationError
from mesh.model.request_policy import ExternalAuthorizer
from mesh.model.waypoint import SpanCollector

BASE = "source: {folder: /x}\nauthority: {}\nauthentication: {tokens: /y}\n"


def load(text: str) -> OperatorSettings:
    return config.decode(BASE + text, "f", OperatorSettings, {})


def test_names_and_authorizers_reach_the_translation() -> None:
    settings = load(
        "mesh: {trust_domain: td, cluster_domain: c.test, root_namespace: root}\n"
        "authorizers:\n"
        "- {name: asker, service: auth/asker.auth.svc.c.test, port: 9000, protocol: grpc, fail_open: true}\n"
        "- {name: web, service: auth/web, port: 80, protocol: http, include_headers: [X-User], path_prefix: /check,\n"
        "  additional_headers: {X-Mesh: demo}, headers_to_downstream_on_allow: [X-Said], max_body_bytes: 8192,\n"
        "  allow_partial_body: true}\n"
    ).translation()
    assert (settings.trust_domain, settings.cluster_domain, settings.root_namespace) == ("td", "c.test", "root")
    assert settings.authorizers == (
        ExternalAuthorizer(
            name="asker", service="auth/asker.auth.svc.c.test", port=9000, grpc=True, fail_open=True
        ),
        ExternalAuthorizer(
            name="web",
            service="auth/web",
            port=80,
            grpc=False,
            include_headers=("x-user",),
            path_prefix="/check",
            additional_headers=(("x-mesh", "demo"),),
            headers_to_downstream_on_allow=("x-said",),
            max_body_bytes=8192,
            allow_partial_body=True,
        ),
    )


def test_classes_that_are_run_are_waypoints() -> None:
    assert load("").translation().waypoint_classes == ("ambimesh-waypoint", "istio-waypoint")
    assert load("waypoints: {command: [x], classes: [mine]}").translation().waypoint_classes[-1] == "mine"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{name: a, service: nothing, port: 1, protocol: grpc}", "authorizers"),
        ("{name: a, service: a/b, port: 0, protocol: grpc}", "port"),
        ("{name: a, service: a/b, port: 1, protocol: soap}", "protocol"),
        ("{name: a, service: a/b, port: 1, protocol: grpc, failOpen: true}", "failOpen"),
    ],
)
def test_a_bad_authorizer_is_named(entry: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(f"authorizers: [{entry}]\n")


def test_two_authorizers_of_one_name() -> None:
    entry = "{name: a, service: a/b, port: 1, protocol: grpc}"
    with pytest.raises(ConfigurationError, match="same name"):
        load(f"authorizers: [{entry}, {entry}]\n").translation()


def test_collectors_of_spans_reach_the_translation() -> None:
    settings = load(
        "tracing:\n"
        "  default: otel\n"
        "  sampling_percent: 5\n"
        "  collectors:\n"
        "  - {name: otel, service: observe/otel.observe.svc.c.test}\n"
        "  - {name: other, service: observe/other, port: 80, path: /in}\n"
    ).translation()
    assert dict(settings.collectors) == {
        "otel": SpanCollector(service="observe/otel.observe.svc.c.test", port=4318, path="/v1/traces"),
        "other": SpanCollector(service="observe/other", port=80, path="/in"),
    }
    assert (settings.default_collector, settings.sampling_percent) == ("otel", 5.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{default: nobody}", "no collector called 'nobody'"),
        ("{collectors: [{name: a, service: b/c}, {name: a, service: b/d}]}", "same name"),
        ("{collectors: [{name: a, service: nothing}]}", "service"),
        ("{collectors: [{name: a, service: b/c, path: 'no path'}]}", "path"),
        ("{sampling_percent: 101}", "sampling_percent"),
    ],
)
def test_a_bad_collector_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(f"tracing: {text}\n").translation()

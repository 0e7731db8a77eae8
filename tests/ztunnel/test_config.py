"""The configuration file: what must be there, what may, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh import config
from mesh.control_plane import ControlPlaneGroup
from mesh.errors import ConfigurationError
from ztunnel.config import ZtunnelSettings

LEAST = """
node: {name: node1}
control_plane: {address: "10.96.0.15:15012", server_name: operator.test, root_certificate: /r.pem, token: /token}
"""


def read(text: str) -> ZtunnelSettings:
    return config.decode(text, "file", ZtunnelSettings, {})


def at(address: str) -> ControlPlaneGroup:
    return ControlPlaneGroup(address=address, server_name="x", root_certificate=Path("r"), token=Path("t"))


def test_defaults() -> None:
    settings = read(LEAST)
    assert settings.node.trust_domain == "cluster.local"
    assert settings.zds_socket == Path("/run/ambimesh/ztunnel.sock")
    assert (settings.admin.admin_port, settings.admin.metrics_port, settings.admin.readiness_port) == (
        15000,
        15020,
        15021,
    )
    assert settings.certificate_lifetime_seconds == 86400
    assert [settings.kernel_tls, read(LEAST + "kernel_tls: auto").kernel_tls] == ["never", "auto"]
    assert settings.workers == "auto"
    assert [read(LEAST + f"workers: {text}").workers for text in ("1", "16", "auto")] == [1, 16, "auto"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("node: {name: node1}", "control_plane"),
        (LEAST + "nod: {}", "nod"),
        (LEAST + "log: {level: info, forma: json}", r"\$\.log"),
        (LEAST + "log: {format: xml}", r"\$\.log\.format"),
        (LEAST + "admin: {admin_port: 70000}", r"\$\.admin\.admin_port"),
        (LEAST + "drain_seconds: -1", r"\$\.drain_seconds"),
        (LEAST + "workers: 0", r"\$\.workers"),
        (LEAST + "workers: 17", r"\$\.workers"),
        (LEAST + "workers: many", r"\$\.workers"),
    ],
)
def test_faults_name_their_place(text: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match=place):
        read(text)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.96.0.15:15012", ("10.96.0.15", 15012)),
        ("operator.ambimesh-system.svc:15012", ("operator.ambimesh-system.svc", 15012)),
        ("[fd00::1]:15012", ("fd00::1", 15012)),
    ],
)
def test_where_the_operator_is(address: str, expected: tuple[str, int]) -> None:
    assert at(address).host_and_port() == expected


@pytest.mark.parametrize(
    "address", ["", "operator", "operator:", ":15012", "operator:0", "operator:65536", "operator:\u00b2"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\$\.control_plane\.address"):
        at(address).host_and_port()

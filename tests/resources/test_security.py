"""The policies' structures: what is absent, what is empty, what is unknown."""

from __future__ import annotations

import msgspec
import pytest

from resources.security import AuthorizationPolicySpec, AuthorizationRule, PeerAuthenticationSpec, Source


def test_an_empty_rule_and_an_absent_field_stay_what_they_are() -> None:
    spec = msgspec.convert({"rules": [{}, {"from": [{"source": {"principals": []}}]}]}, AuthorizationPolicySpec)
    assert spec.action == "ALLOW"
    assert spec.rules[0] == AuthorizationRule()
    source = spec.rules[1].from_[0].source if spec.rules[1].from_ else None
    assert source == Source(principals=())
    assert source is not None
    assert source.not_principals is None
    assert msgspec.json.decode(msgspec.json.encode(spec)) == {"rules": [{}, {"from": [{"source": {"principals": []}}]}]}


def test_ports_of_a_mode_are_text() -> None:
    spec = msgspec.convert({"mtls": {"mode": "STRICT"}, "portLevelMtls": {"8080": {}}}, PeerAuthenticationSpec)
    assert spec.mtls is not None
    assert spec.mtls.mode == "STRICT"
    assert spec.port_level_mtls["8080"].mode == "UNSET"


@pytest.mark.parametrize(
    "spec",
    [
        {"action": "allow"},
        {"rules": [{"source": {}}]},
        {"rules": [{"from": [{"source": {"principal": ["x"]}}]}]},
        {"rules": [{"when": [{"values": ["x"]}]}]},
        {"selector": {"matchLabels": {"app": 1}}},
        {"targetRef": {"name": "x"}},
    ],
)
def test_what_is_not_known_is_refused(spec: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(spec, AuthorizationPolicySpec)


def test_a_misspelt_mode_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="STRICKT"):
        msgspec.convert({"mtls": {"mode": "STRICKT"}}, PeerAuthenticationSpec)

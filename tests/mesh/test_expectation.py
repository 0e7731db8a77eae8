"""Remedies from a kind's definition: near field names, the values of a choice, nothing where nothing is known."""

from __future__ import annotations

import pytest

from mesh.expectation import Path, choice_remedy, field_remedy
from resources.decode import decode_documents
from resources.objects import AuthorizationPolicy, HTTPRoute, Pod, Service


@pytest.mark.parametrize(
    ("kind", "path", "name", "expected"),
    [
        (AuthorizationPolicy, ("spec",), "rulez", "did you mean rules?"),
        (AuthorizationPolicy, ("spec", "rules", 0, "from", 0, "source"), "principls", "did you mean principals?"),
        (Service, ("spec", "ports", 2), "targetport", "did you mean targetPort?"),
        (HTTPRoute, ("spec", "rules", 0), "backendRef", "did you mean backendRefs?"),
        (Pod, (), "specs", "did you mean spec?"),
        (Pod, ("spec",), "qqqqq", "correct its name or remove it"),
        (Pod, ("nowhere", 0), "spec", "correct its name or remove it"),
    ],
)
def test_an_unknown_field(kind: type, path: Path, name: str, expected: str) -> None:
    assert field_remedy(kind, path, name) == expected


def test_a_choice_names_its_values() -> None:
    assert choice_remedy(AuthorizationPolicy, ("spec", "action")) == "it is one of ALLOW, AUDIT, CUSTOM, DENY"
    assert choice_remedy(Pod, ("kind",)) == "it is Pod"
    assert choice_remedy(Pod, ("spec", "nodeName")) == ""


def test_in_a_problem() -> None:
    text = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec: {action: ALOW}\n"
    _, [problem] = decode_documents(text, "file.yaml")
    assert str(problem).endswith("Invalid enum value 'ALOW', at $.spec.action; it is one of ALLOW, AUDIT, CUSTOM, DENY")

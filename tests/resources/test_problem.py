"""How a fault reads: its place first, then what is wrong, then the remedy."""

from __future__ import annotations

import pytest

from resources.objects import ObjectKey
from resources.problem import Problem


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (Problem(place="a.yaml", message="cannot be read"), "a.yaml: cannot be read"),
        (
            Problem(
                place="a.yaml",
                message="unknown field",
                document=2,
                line=7,
                field="$.spec.x",
                remedy="correct its name",
                key=ObjectKey("Pod", "shop", "web"),
            ),
            "a.yaml:7 (document 2): Pod shop/web: unknown field, at $.spec.x; correct its name",
        ),
        (
            Problem(place="a.yaml", message="no name", document=1, key=ObjectKey("Pod", "shop", "")),
            "a.yaml (document 1): no name",
        ),
        (
            Problem(place="a.yaml", message="twice", key=ObjectKey("Namespace", "", "shop")),
            "a.yaml: Namespace shop: twice",
        ),
    ],
)
def test_text(problem: Problem, text: str) -> None:
    assert str(problem) == text

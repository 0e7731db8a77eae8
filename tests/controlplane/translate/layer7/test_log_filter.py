"""Filters of the access log: the codes they come to, and that of others nothing is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.translate.layer7.log_filter import LAST_CODE, codes_of

_LEAF = st.tuples(st.sampled_from((">=", "<=", "==", "!=", ">", "<")), st.integers(0, LAST_CODE)).map(
    lambda pair: f"response.code {pair[0]} {pair[1]}"
)
_EXPRESSION = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(("&&", "||")), inner).map(lambda parts: f"({' '.join(parts)})"),
        inner.map(lambda one: f"!({one})"),
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("expression", "codes"),
    [
        ("response.code >= 400", ((400, LAST_CODE),)),
        (" response.code==200||response.code == 201 || response.code == 404 ", ((200, 201), (404, 404))),
        ("response.code >= 500 || response.code == 429", ((429, 429), (500, LAST_CODE))),
        ("response.code >= 400 && response.code < 500 && !(response.code == 404)", ((400, 403), (405, 499))),
        ("500 <= response.code", ((500, LAST_CODE),)),
        ("response.code == 0", ((0, 0),)),
        ("response.code < 0", ()),
    ],
)
def test_codes(expression: str, codes: tuple[tuple[int, int], ...]) -> None:
    assert codes_of(expression) == codes


@given(_EXPRESSION)
def test_it_means_what_it_says(expression: str) -> None:
    found = codes_of(expression)
    assert found is not None
    spelt = expression.replace("&&", " and ").replace("||", " or ").replace("!(", " not (")
    for code in (0, 200, 299, 400, 599):
        meant = eval(spelt.replace("response.code", str(code)))
        assert meant == any(first <= code <= last for first, last in found)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "response.code",
        "response.code >=",
        "response.code >= 400 response.code",
        "(response.code >= 400",
        "response.code >= 400)",
        "response.code >= response.code",
        "200 == 200",
        "request.path == '/healthz'",
        "response.code >= 400 && connection.mtls",
        "has(response.code)",
        "response.code ! 4",
        "!" * 20 + "(response.code > 1)",
        "response.code > 1 || " * 100 + "response.code > 1",
    ],
)
def test_of_other_expressions_nothing_is_read(expression: str) -> None:
    assert codes_of(expression) is None

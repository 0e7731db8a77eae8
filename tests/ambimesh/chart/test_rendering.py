"""Templates with values. That the whole agrees with Helm is in ``test_loading_driver``."""

from __future__ import annotations

from typing import Any

import pytest

from ambimesh.chart.rendering import Renderer, is_true
from mesh.errors import ConfigurationError


def _render(template: str, **values: Any) -> str:
    helper = '{{ define "named" }}<{{ .x }}>{{ end }}{{ define "root" }}{{ $.y }}{{ end }}'
    return Renderer({"f": template, "_h.tpl": helper}, {"Values": values, "Release": {"Name": "r"}}).render("f")


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{{ .Values.a }}{{ .Values.b }}{{ .Values.c }}", {"a": 1, "b": True, "c": "t"}, "1truet"),
        ("{{ if .Values.a }}y{{ else }}n{{ end }}", {"a": {}}, "n"),
        ("{{ if .Values.a.b }}y{{ else }}n{{ end }}", {"a": {}}, "n"),
        ("{{ with .Values.a }}{{ .b }}{{ $.Release.Name }}{{ end }}", {"a": {"b": 1}}, "1r"),
        ("{{ with .Values.a }}y{{ else }}{{ .Release.Name }}{{ end }}", {"a": ""}, "r"),
        ("{{ range .Values.a }}{{ . }},{{ end }}", {"a": ["x", "y"]}, "x,y,"),
        ("{{ range $i, $e := .Values.a }}{{ $i }}{{ $e }}{{ else }}none{{ end }}", {"a": []}, "none"),
        ("{{ range $k, $v := .Values.a }}{{ $k }}={{ $v }};{{ end }}", {"a": {"z": 1, "b": 2}}, "b=2;z=1;"),
        ("{{ $x := .Values.a }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", {"a": 1}, "21"),
        ('{{ include "named" (dict "x" .Values.a) | quote }}', {"a": 'q"'}, '"<q\\">"'),
        ('{{ include "root" (dict "y" 7) }}', {}, "7"),
        ("a:{{ .Values.a | toYaml | nindent 2 }}", {"a": {"b": ["c"]}}, "a:\n  b:\n  - c"),
        ('{{ default "d" .Values.a }}{{ default "d" .Values.b }}', {"a": "", "b": "x"}, "dx"),
        ("{{ if and .Values.a (not .Values.b) (or .Values.b (eq .Values.a 1)) }}y{{ end }}", {"a": 1, "b": 0}, "y"),
        ("{{ add .Values.a 5 }}", {"a": 25}, "30"),
        ('{{ printf "%s-%d" .Values.a 3 }}', {"a": "x"}, "x-3"),
    ],
)
def test_what_comes_out(template: str, values: dict[str, Any], text: str) -> None:
    assert _render(template, **values) == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ .Values.absent }}", "missing"),
        ("{{ .Values.absent.field }}", r"\.Values\.absent has no field field"),
        ("{{ .Values }}", "toYaml"),
        ("{{ nosuch 1 }}", "nosuch is not of the subset"),
        ('{{ include "nosuch" . }}', "no template is called nosuch"),
        ("{{ $x }}", r"\$x is not set"),
        ("{{ indent .Values.absent 1 }}", "indent"),
        ('{{ fail "because" }}', "f: because"),
        ("{{ range .Release.Name }}{{ end }}", "range over str"),
    ],
)
def test_what_cannot_be_rendered_is_told(template: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        _render(template)


def test_templates_that_include_themselves_end() -> None:
    renderer = Renderer({"f": '{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}'}, {})
    with pytest.raises(ConfigurationError, match="without end"):
        renderer.render("f")


@pytest.mark.parametrize(
    ("value", "truth"), [(None, False), (0, False), ("", False), ([], False), ("0", True), ([0], True)]
)
def test_truth_is_gos(value: Any, truth: bool) -> None:
    assert is_true(value) is truth

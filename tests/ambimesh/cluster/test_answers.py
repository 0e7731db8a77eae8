"""Answers of the API server in the mesh's errors."""

from __future__ import annotations

import json

import pytest

from ambimesh.cluster.answers import refusal
from mesh.errors import ConfigurationError, EnvironmentLacks, MeshError, ObjectMissing


@pytest.mark.parametrize(
    ("status", "message", "kind", "said"),
    [
        (401, "Unauthorized", ConfigurationError, "log in again"),
        (403, 'pods is forbidden: User "x"', ConfigurationError, "--context"),
        (404, 'pods "x" not found', ObjectMissing, "not found"),
        (409, "conflict", ConfigurationError, "try again"),
        (422, "spec.x: Invalid value", ConfigurationError, "Invalid value"),
        (429, "too many requests", EnvironmentLacks, "too many"),
        (500, ".spec.x: field not declared in schema", ConfigurationError, "not declared"),
        (503, "apiserver is shutting down", EnvironmentLacks, "shutting down"),
    ],
)
def test_a_status_becomes_an_error(status: int, message: str, kind: type[MeshError], said: str) -> None:
    error = refusal(status, json.dumps({"kind": "Status", "message": message}).encode(), "GET /x")
    assert type(error) is kind
    assert said in str(error)


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway", b"\xff\xfe", b"[1]", b'{"message": null}'])
def test_an_answer_of_somebody_between_is_read_too(body: bytes) -> None:
    assert "GET /x" in str(refusal(502, body, "GET /x"))

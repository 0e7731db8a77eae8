from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from controlplane.ca.authentication import Caller, StaticTokens, authenticate_call
from mesh.errors import CallerUnknown, ConfigurationError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(token: str, account: str = "ztunnel", expires: str = "") -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    line = f"- {{sha256: {digest}, node: node1, namespace: mesh, service_account: {account}"
    return line + (f", expires: '{expires}'}}\n" if expires else "}\n")


def tokens(path: Path, *entries: str) -> StaticTokens:
    path.write_text("tokens:\n" + "".join(entries))
    return StaticTokens(path, lambda: NOW)


async def test_a_known_token(tmp_path: Path) -> None:
    known = tokens(tmp_path / "t", entry("one"), entry("two", "agent"))
    assert await known.authenticate("two") == Caller("mesh", "agent", "node1")
    with pytest.raises(CallerUnknown, match="not known"):
        await known.authenticate("three")


async def test_expiry(tmp_path: Path) -> None:
    past, future = entry("a", expires="2025-12-31T23:59:59Z"), entry("b", expires="2026-01-02T00:00:00")
    known = tokens(tmp_path / "t", past, future)
    with pytest.raises(CallerUnknown, match="expired"):
        await known.authenticate("a")
    assert (await known.authenticate("b")).account == "mesh/ztunnel"


async def test_changes_are_taken_up_and_broken_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "t"
    known = tokens(path, entry("one"))
    path.write_text("tokens:\n" + entry("two"))
    assert (await known.authenticate("two")).node == "node1"
    with pytest.raises(CallerUnknown):
        await known.authenticate("one")
    path.write_text("tokens: [broken")
    assert (await known.authenticate("two")).node == "node1"
    path.unlink()
    assert (await known.authenticate("two")).node == "node1"


HEADERS = [None, "", "Bearer", "Bearer ", "Basic b25l", "Bearer one two", "Bearer " + "x" * 9000]


@pytest.mark.parametrize("header", HEADERS)
async def test_headers_without_a_bearer_token(tmp_path: Path, header: str | None) -> None:
    known = tokens(tmp_path / "t", entry("one"))
    with pytest.raises(CallerUnknown, match="no bearer token"):
        await authenticate_call(known, {} if header is None else {"authorization": header})


async def test_the_header(tmp_path: Path) -> None:
    known = tokens(tmp_path / "t", entry("one"))
    assert (await authenticate_call(known, {"authorization": "Bearer one"})).account == "mesh/ztunnel"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tokens: [{sha256: abc, namespace: a, service_account: b}]", r"\$\.tokens\[0\]\.sha256"),
        ("tokens: [{token: abc}]", "token"),
        ("tokens:\n" + entry("x", expires="soon"), "RFC 3339"),
    ],
)
def test_broken_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t").write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        StaticTokens(tmp_path / "t")

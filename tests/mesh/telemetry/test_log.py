"""Process logs: the shape of a line, and levels that change while loggers live."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator

import pytest
import structlog

from mesh.errors import ConfigurationError
from mesh.telemetry import log, output


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """Sends standard output's buffer into a pipe, and gives what arrived since the last call."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    monkeypatch.setattr(output, "_standard", output.LineOutput(writer))

    def read() -> list[str]:
        try:
            return os.read(reader, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []

    yield read
    os.close(reader)
    os.close(writer)


def test_text_is_one_line_an_event(lines: Callable[[], list[str]]) -> None:
    log.configure("text", "info")
    structlog.get_logger("ztunnel.inbound").bind(pod="a b").warning(
        "connection_refused", peer="10.0.0.1:4711", error='no "certificate"\nshown', count=3, nothing=None
    )
    (line,) = lines()
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time)
    assert rest == (
        'warning ztunnel.inbound connection_refused pod="a b" peer=10.0.0.1:4711 '
        'error="no \\"certificate\\"\\nshown" count=3 nothing=None'
    )


def test_json_carries_the_same(lines: Callable[[], list[str]]) -> None:
    log.configure("json", "info")
    structlog.get_logger("cni").info("pod_enrolled", pod="default/a", addresses=["10.0.0.1"], other=object)
    record = json.loads(lines()[0])
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "info",
        "scope": "cni",
        "event": "pod_enrolled",
        "pod": "default/a",
        "addresses": ["10.0.0.1"],
        "other": "<class 'object'>",
    }


def test_the_scope_is_the_module_unless_named(lines: Callable[[], list[str]]) -> None:
    log.configure("text", "info")
    structlog.get_logger().info("here")
    assert f" info {__name__} here" in lines()[0]


def test_a_level_change_reaches_existing_loggers(lines: Callable[[], list[str]]) -> None:
    log.configure("text", "info")
    logger = structlog.get_logger("x").bind(a=1)
    logger.debug("unseen")
    log.set_level("debug")
    assert log.current_level() == "debug"
    logger.debug("seen")
    log.set_level("WARN")
    logger.info("unseen")
    log.set_level("off")
    logger.critical("unseen")
    assert [line.split(" ", 1)[1] for line in lines()] == ["debug x seen a=1"]
    log.set_level("info")


def test_a_format_change_reaches_existing_loggers(lines: Callable[[], list[str]]) -> None:
    log.configure("text", "info")
    logger = structlog.get_logger("x")
    logger.info("first")
    log.configure("json", "info")
    logger.info("second")
    first, second = lines()
    assert first.endswith("info x first")
    assert json.loads(second)["event"] == "second"


def test_exceptions_stay_on_the_line(lines: Callable[[], list[str]]) -> None:
    log.configure("text", "info")
    try:
        raise ValueError("bad")
    except ValueError:
        structlog.get_logger("x").exception("handler_failed")
    (line,) = lines()
    assert " error x handler_failed exception=" in line
    assert "ValueError: bad" in line


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'loud' is not a log level: choose one of debug, info"):
        log.set_level("loud")


def test_facts_that_every_line_tells(lines: Callable[[], list[str]]) -> None:
    for shape in ("text", "json"):
        log.configure("text" if shape == "text" else "json", "info", worker=3)
        structlog.get_logger("x").info("happened", count=1)
    text, structured = lines()
    assert text.endswith("info x happened count=1 worker=3")
    assert json.loads(structured)["worker"] == 3
    log.configure("text", "info")
    structlog.get_logger("x").info("happened")
    assert lines()[0].endswith("info x happened")

"""The access log: Istio's line, templates, JSON, and what peers try to put into it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigurationError
from mesh.model.waypoint import LogFormat, Telemetry
from mesh.telemetry.output import LineOutput
from waypoint.telemetry import flags
from waypoint.telemetry.log_format import DEFAULT_TEMPLATE, compile_template, escaped
from waypoint.telemetry.record import RequestRecord
from waypoint.telemetry.request_log import RequestLog

Make = Callable[..., RequestRecord]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[..., str]]:
    path = tmp_path / "log"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)

    def write(record: RequestRecord, **fields: object) -> str:
        output = LineOutput(fd)
        RequestLog(Telemetry(**fields), output).write(record)  # type: ignore[arg-type]
        output.flush()
        text = path.read_text()
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        return text

    yield write
    os.close(fd)


def test_the_default_line_is_istios(finished: Make, written: Callable[..., str]) -> None:
    assert written(finished(request_id=b"id-1")) == (
        '[2027-01-15T08:00:00.250Z] "GET /a?b HTTP/1.1" 200 - via_upstream - "-" 10 2000 20 14 "-" "curl" "id-1" '
        '"echo" "10.0.0.2:8080" demo/echo.demo.svc - 10.96.0.10:80 10.0.0.1:40000 - demo/route/0\n'
    )


def test_nothing_that_did_not_happen(finished: Make, written: Callable[..., str]) -> None:
    record = finished(status=0, flags=flags.DOWNSTREAM_CONNECTION_TERMINATION, details="", route="", endpoint=None)
    record.first_answered = -1.0
    record.upstream_address, record.upstream_service = None, ""
    record.request.headers = []
    assert written(record).endswith(
        '"GET /a?b HTTP/1.1" 0 DC - - "-" 10 2000 20 - "-" "-" "-" "echo" "-" - - 10.96.0.10:80 10.0.0.1:40000 - -\n'
    )


def test_a_template(finished: Make, written: Callable[..., str]) -> None:
    record = finished(grpc_status=5)
    record.response_headers = [(b"x-a", b"first"), (b"x-a", b"second")]
    template = "%% {%PROTOCOL%} %REQ(X-NO?USER-AGENT):3% %RESP(X-A)% %RESP(X-NO)% %GRPC_STATUS% %DURATION%ms"
    line = written(record, log_format=LogFormat.TEMPLATE, log_template=template)
    assert line == "% {HTTP/1.1} cur first,second - 5 20ms\n"


def test_whom_a_token_is_of(finished: Make, written: Callable[..., str]) -> None:
    template = "%DYNAMIC_METADATA(istio_authn:request.auth.principal)%"
    assert compile_template(template)(finished()) == "-"
    forged = finished(request_principal='https://issuer/a"\n')
    assert compile_template(template)(forged) == 'https://issuer/a\\"\\n'
    assert json.loads(written(forged, log_format=LogFormat.JSON))["request_principal"] == 'https://issuer/a"\n'


@pytest.mark.parametrize(
    "template",
    [
        *("%NO%", "%REQ%", "%REQ()%", "%REQ(X%", "%DURATION(%s)%", "100%", "%REQ(A):x%", "%PROTOCOL(A)%"),
        *("%DYNAMIC_METADATA(x)%", "%DYNAMIC_METADATA%"),
    ],
)
def test_a_template_that_cannot_be_read_is_an_error(template: str) -> None:
    with pytest.raises(ConfigurationError):
        compile_template(template)


def test_every_operator_has_a_value(finished: Make) -> None:
    from waypoint.telemetry.log_format import FIELDS

    for name in FIELDS:
        assert compile_template(f"%{name}%")(finished())


def test_json(finished: Make, written: Callable[..., str]) -> None:
    fields = json.loads(written(finished(), log_format=LogFormat.JSON))
    assert fields["response_code"] == 200
    assert fields["duration"] == 20
    assert fields["upstream_service_time"] == 14
    assert fields["request_id"] is None
    assert fields["path"] == "/a?b"
    assert fields["downstream_peer"] == "spiffe://cluster.local/ns/demo/sa/client"


def test_off_and_failures_only(finished: Make, written: Callable[..., str]) -> None:
    assert written(finished(), log_format=LogFormat.OFF) == ""
    assert written(finished(), log_failures_only=True) == ""
    assert written(finished(status=500), log_failures_only=True)
    assert written(finished(status=0), log_failures_only=True)
    assert written(finished(flags=flags.RATE_LIMITED), log_failures_only=True)


def test_codes_that_are_logged(finished: Make, written: Callable[..., str]) -> None:
    codes = ((404, 404), (500, 599))
    for status, told in ((200, False), (404, True), (403, False), (503, True), (0, False)):
        assert bool(written(finished(status=status), log_codes=codes)) is told
    assert written(finished(status=0), log_codes=((0, 0),))
    assert written(finished(), log_codes=()) == ""


@given(st.binary(max_size=60))
def test_no_peer_ends_a_line_or_a_field(value: bytes) -> None:
    text = escaped(value)
    assert text.isprintable()
    assert '"' not in text.replace('\\\\', "").replace('\\"', "")


def test_a_forged_line_stays_one_field(finished: Make) -> None:
    record = finished(path=b'/" 200 - forged\r\n[2027')
    line = compile_template(DEFAULT_TEMPLATE)(record)
    assert line.count("\n") == 1
    assert r'"GET /\" 200 - forged\r\n[2027 HTTP/1.1"' in line

"""The static plugin against agents of all kinds, and against none."""

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.protocol_codec import CniFailure, decode_request, encode_reply


@dataclass
class Agent:
    path: Path
    requests: list[bytes] = field(default_factory=list)


@contextmanager
def agent(path: Path, answer: bytes | Callable[[socket.socket], None]) -> Iterator[Agent]:
    """An agent that reads a request to its end and gives this answer, or does as the function does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.05)
        seen, stopped = Agent(path), threading.Event()

        def serve() -> None:
            while not stopped.is_set():
                try:
                    connected, _ = listener.accept()
                except TimeoutError:
                    continue
                with connected:
                    connected.settimeout(5)
                    if callable(answer):
                        answer(connected)
                        continue
                    received = b""
                    while chunk := connected.recv(65536):
                        received += chunk
                    seen.requests.append(received)
                    connected.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield seen
        finally:
            stopped.set()
            server.join()


def run(
    plugin: Path, stdin: bytes, command: str | None = "ADD", timeout: float = 10, **environment: str
) -> tuple[int, bytes]:
    variables = environment if command is None else {"CNI_COMMAND": command} | environment
    done = subprocess.run([plugin], input=stdin, env=variables, capture_output=True, timeout=timeout, check=False)
    assert done.stderr == b""
    return done.returncode, done.stdout


def configuration(path: Path, **more: Any) -> bytes:
    return json.dumps({"cniVersion": "0.4.0", "type": "ambimesh-cni", "agentSocket": str(path), **more}).encode()


def test_it_is_static(plugin: Path) -> None:
    described = subprocess.run(["readelf", "-l", plugin], capture_output=True, check=True).stdout
    assert b"INTERP" not in described


def test_request_and_reply_are_relayed_unchanged(plugin: Path, tmp_path: Path) -> None:
    stdin = configuration(tmp_path / "s", prevResult={"ips": [], "odd": "\\\"\u00e9\u2028"}) + b"\n\t "
    result = b'{"cniVersion": "0.4.0", "odd": "\xc3\xa9 %s %n"}'
    with agent(tmp_path / "s", encode_reply(0, result)) as seen:
        arguments = 'K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;X="\\\x07\x7f'
        assert run(plugin, stdin, CNI_ARGS=arguments, CNI_NETNS="/n", CNI_CONTAINERID="c", SECRET="s") == (0, result)
    relayed = json.loads(seen.requests[0])
    assert relayed["configuration"].encode() == stdin
    assert relayed["environment"] == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c",
        "CNI_NETNS": "/n",
        "CNI_IFNAME": "",
        "CNI_ARGS": arguments,
        "CNI_PATH": "",
    }


def test_an_error_of_the_agent_is_printed_with_status_one(plugin: Path, tmp_path: Path) -> None:
    with agent(tmp_path / "s", encode_reply(1, b'{"code": 11}')):
        assert run(plugin, configuration(tmp_path / "s")) == (1, b'{"code": 11}')


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_without_an_agent_it_fails_closed_and_says_what_to_do(plugin: Path, tmp_path: Path, command: str) -> None:
    status, output = run(plugin, configuration(tmp_path / 'so"cket'[:2]), command)
    assert status == 1
    error = json.loads(output)
    assert (error["cniVersion"], error["code"]) == ("0.4.0", 11)
    assert f"node agent at {tmp_path / 'so'} does not answer" in error["msg"]
    assert "see that the agent runs on this node" in error["msg"]


def test_without_an_agent_a_pod_can_still_be_removed(plugin: Path, tmp_path: Path) -> None:
    assert run(plugin, configuration(tmp_path / "s"), "DEL") == (0, b"")


def test_the_default_socket_is_used_where_none_is_configured(plugin: Path) -> None:
    status, output = run(plugin, b'{"cniVersion": "1.0.0", "inner": {"agentSocket": "/elsewhere"}}')
    assert (status, "/run/ambimesh/cni.sock" in json.loads(output)["msg"]) == (1, True)


def test_version_needs_no_agent(plugin: Path) -> None:
    status, output = run(plugin, b'{"cniVersion": "0.4.0"}', "VERSION")
    versions = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"]
    assert (status, json.loads(output)) == (0, {"cniVersion": "0.4.0", "supportedVersions": versions})


@pytest.mark.parametrize("command", [None, "", "GC", "add", "ADD "])
def test_a_command_that_is_none_is_an_error(plugin: Path, command: str | None) -> None:
    status, output = run(plugin, b"{}", command)
    assert (status, json.loads(output)["code"]) == (1, 4)


def half(connected: socket.socket) -> None:
    connected.recv(65536)
    connected.sendall(encode_reply(0, b"x" * 100)[:-50])


def nothing(connected: socket.socket) -> None:
    connected.recv(65536)


def garbage(connected: socket.socket) -> None:
    connected.recv(65536)
    connected.sendall(b"HTTP/1.1 200 OK\r\n\r\n")


def endless(connected: socket.socket) -> None:
    connected.recv(65536)
    try:
        while True:
            connected.sendall(b"ambimesh-cni/1 0 " + b"9" * 65536)
    except OSError:
        return


def reset(connected: socket.socket) -> None:
    connected.close()


@pytest.mark.parametrize("behaviour", [half, nothing, garbage, endless, reset], ids=lambda entry: entry.__name__)
@pytest.mark.parametrize(("command", "status"), [("ADD", 1), ("CHECK", 1), ("DEL", 0)])
def test_an_agent_that_breaks_off_or_babbles_is_no_agent(
    plugin: Path, tmp_path: Path, behaviour: Callable[[socket.socket], None], command: str, status: int
) -> None:
    with agent(tmp_path / "s", behaviour):
        got, output = run(plugin, configuration(tmp_path / "s"), command)
    assert got == status
    if status:
        assert json.loads(output)["code"] == 11
    else:
        assert output == b""


def test_an_agent_whose_queue_is_full_is_given_two_seconds(plugin: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(tmp_path / "s"))
            begin = time.monotonic()
            status, output = run(plugin, configuration(tmp_path / "s"))
    assert 1.9 < time.monotonic() - begin < 4
    assert (status, json.loads(output)["code"]) == (1, 11)


def test_input_past_a_mebibyte_is_refused(plugin: Path, tmp_path: Path) -> None:
    status, output = run(plugin, configuration(tmp_path / "s", filler="x" * (1 << 20)))
    assert (status, json.loads(output)["code"]) == (1, 6)
    assert "1 MiB" in json.loads(output)["msg"]


def test_input_of_a_mebibyte_is_relayed(plugin: Path, tmp_path: Path) -> None:
    stdin = configuration(tmp_path / "s", filler="")
    stdin = stdin.replace(b'"filler": "', b'"filler": "' + b"\x01" * ((1 << 20) - len(stdin)))
    with agent(tmp_path / "s", encode_reply(0, b"{}")) as seen:
        assert run(plugin, stdin) == (0, b"{}")
    assert json.loads(seen.requests[0])["configuration"].encode() == stdin


@pytest.mark.parametrize("value", ['"' + "x" * 108 + '"', '"a\\u0041"', "5", "null", '{"a": 1}', '""', '"a\x00b"', '"'])
def test_an_agent_socket_it_cannot_use_is_an_error_of_the_configuration(plugin: Path, value: str) -> None:
    status, output = run(plugin, b'{"agentSocket": %s}' % value.encode())
    assert (status, json.loads(output)["code"]) in ((1, 7), (1, 11))
    if value != '"':
        assert json.loads(output)["code"] == 7


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stdin=st.one_of(st.binary(max_size=400), st.text('{}[]",:\\agentSocket ', max_size=200).map(str.encode)))
def test_hostile_input_gives_a_json_error_or_an_unharmed_relay(plugin: Path, stdin: bytes) -> None:
    status, output = run(plugin, stdin)
    assert status == 1
    assert json.loads(output.decode(errors="replace"))["code"] in (6, 7, 11)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=200))
def test_what_the_plugin_escapes_the_agent_reads_or_refuses(plugin: Path, tmp_path: Path, text: str) -> None:
    stdin = configuration(tmp_path / "s") + text.encode("utf-8", "replace")
    with agent(tmp_path / "s", encode_reply(0, b"{}")) as seen:
        assert run(plugin, stdin) == (0, b"{}")
    assert json.loads(seen.requests[0])["configuration"].encode() == stdin
    try:
        decode_request(seen.requests[0])
    except CniFailure:
        return


@pytest.fixture(scope="session")
def watched_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin with the compiler's checks of memory and undefined behaviour; it leaves freeing to its end."""
    output = tmp_path_factory.mktemp("watched") / "ambimesh-cni"
    source = Path(__file__).parents[2] / "cni" / "plugin" / "ambimesh-cni.c"
    checks = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1", "-std=gnu11"]
    subprocess.run(["gcc", *checks, "-o", output, source], check=True, timeout=120)
    return output


LIMIT = 107
EDGES = [
    b'{"agentSocket": "' + b"x" * LIMIT + b'"}',
    b'{"agentSocket": "' + b"x" * (LIMIT + 1) + b'"}',
    b'{"cniVersion": "' + b"1" * 31 + b'"}',
    b'{"cniVersion": "' + b"1" * 32 + b'"}',
    b'{"agentSocket"',
    b'{"agentSocket": "',
    b'{"agentSocket": "\\',
    b"{" * 5000,
    b"x" * (1 << 20),
    b"x" * ((1 << 20) + 1),
]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stdin=st.one_of(
        st.sampled_from(EDGES),
        st.lists(st.sampled_from([b'"agentSocket"', b'"cniVersion"', *(bytes([c]) for c in b':"{}[],\\ x\xff\0')])).map(
            b"".join
        ),
    )
)
def test_no_input_makes_it_touch_memory_that_is_not_its_own(watched_plugin: Path, stdin: bytes) -> None:
    for command in ("ADD", "VERSION"):
        status, _ = run(watched_plugin, stdin, command, ASAN_OPTIONS="detect_leaks=0")
        assert status in (0, 1)


REPLIES = [
    b"ambimesh-cni/1 0 99999999\n",
    b"ambimesh-cni/1 -1 5\nhello",
    b"ambimesh-cni/1 0 5",
    b"ambimesh-cni/1 0 -5\nhello",
    b"ambimesh-cni/1 7 2\nhi",
    b"ambimesh-cni/1 0 5\nhello!",
    b"x" * (2 << 20),
    b"ambimesh-cni/1 0 2097152\n" + b"y" * (2 << 20),
]


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: repr(reply[:24]))
def test_no_reply_makes_it_touch_memory_that_is_not_its_own(watched_plugin: Path, tmp_path: Path, reply: bytes) -> None:
    with agent(tmp_path / "s", lambda connected: babble(connected, reply)):
        status, output = run(watched_plugin, configuration(tmp_path / "s"), ASAN_OPTIONS="detect_leaks=0")
    assert (status, json.loads(output)["code"]) == (1, 11)


def babble(connected: socket.socket, reply: bytes) -> None:
    while connected.recv(65536):
        pass
    with suppress(OSError):  # it stops listening to what is too long
        connected.sendall(reply)

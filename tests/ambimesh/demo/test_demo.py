"""How evidence is read; that it is there is shown by the demonstration itself, in ``test_lab``."""

from __future__ import annotations

import struct
import sys

import pytest
import trio
import trio.testing

from ambimesh.demo import (
    lines_capture,
    lines_identity,
    lines_policy,
    lines_requests,
    lines_resilience,
    lines_traces,
    lines_waypoint,
    pod_state,
)
from ambimesh.demo.clients import Client
from ambimesh.demo.recording import Recording
from ambimesh.demo.run import LAST, LINES, ROTATION, WAYPOINT_LINES, first_leaf, judge
from ambimesh.demo.stage import NotShown, require
from ambimesh.lab import manifests
from mesh.errors import ConfigurationError

PCAP = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)


def packet(source: tuple[int, int], destination: tuple[int, int], flags: int, payload: bytes = b"") -> bytes:
    """A TCP frame between 10.244.1.x and 10.244.2.x; each end is (last octet, port); octet 0 is the node itself."""
    segment = struct.pack("!HHIIBBHHH", source[1], destination[1], 1, 0, 5 << 4, flags, 0, 0, 0) + payload
    octets = (source[0], destination[0])
    ends = b"".join(bytes([10, 244, 1, octet]) if octet else bytes([172, 18, 0, 11]) for octet in octets)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0)
    frame = bytes(12) + b"\x08\x00" + header + ends + segment
    return struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame


def recording(*packets: bytes) -> Recording:
    return Recording(PCAP + b"".join(packets))


TUNNEL_SYN = packet((2, 4000), (3, 15008), 0x02)
TUNNEL_HELLO = packet((2, 4000), (3, 15008), 0x18, b"\x16\x03\x01rest")


def test_a_tunnel_that_speaks_tls_is_nothing_beside() -> None:
    seen = recording(TUNNEL_SYN, TUNNEL_HELLO, packet((3, 15008), (2, 4000), 0x18, b"\x17\x03\x03"))
    assert seen.beside_tunnels() == []
    assert seen.not_tls() == []
    assert seen.tunnel_bytes() == 10
    assert len(seen.first_bytes()) == 1


def test_a_connection_to_the_port_that_is_not_tls_is_found() -> None:
    assert len(recording(TUNNEL_SYN, packet((2, 4000), (3, 15008), 0x18, b"GET /")).not_tls()) == 1


def test_anything_beside_the_port_is_found_with_one_end_a_pod() -> None:
    assert len(recording(packet((2, 4000), (3, 8080), 0x02)).beside_tunnels()) == 1
    assert len(recording(packet((2, 4000), (0, 8080), 0x02)).beside_tunnels()) == 1
    assert recording(packet((0, 4000), (0, 15012), 0x02)).beside_tunnels() == []


def test_a_marker_is_found_whatever_carries_it() -> None:
    seen = recording(packet((2, 4000), (3, 8080), 0x18, b"GET /marker"), packet((0, 1), (0, 2), 0x18, b"other"))
    assert len(seen.carrying("marker")) == 1
    assert seen.shows("other")
    assert not seen.shows("absent")


def test_counters_and_comments_are_no_change_but_rules_are() -> None:
    before = {"iptables": pod_state.normal("# made at 12:00\n:INPUT ACCEPT [1:2]\n"), "sysctls": "a = 1"}
    after = {"iptables": pod_state.normal("# made at 12:01\n:INPUT ACCEPT [3:4]\n"), "sysctls": "a = 2"}
    assert pod_state.differences(before, after) == ["sysctls: a = 1; a = 2"]
    assert pod_state.differences(before, {**before, "nftables": "table ip x"}) == ["nftables: table ip x"]


def test_volatile_parameters_are_left_out() -> None:
    text = "net.netfilter.nf_conntrack_count = 5\nnet.ipv4.ip_forward = 0\n"
    assert pod_state.normal(text) == "net.ipv4.ip_forward = 0"


async def test_a_clients_words_are_taken_in_piece_by_piece() -> None:
    script = (
        "import sys, time\n"
        'sys.stdout.write(\'{"event": "good", "at": 1.0}\\n{"event": "fai\'); sys.stdout.flush()\n'
        "time.sleep(0.1)\n"
        'sys.stdout.write(\'led", "at": 2.0}\\n\')'
    )
    process = await trio.lowlevel.open_process([sys.executable, "-c", script], stdout=-1)
    client = Client(process)
    await client.listen()
    await process.wait()
    assert (client.count("good"), client.count("failed")) == (1, 1)
    assert client.after(1.5, "failed") == [{"event": "failed", "at": 2.0}]
    assert client.first("none") is None


async def test_a_line_that_does_not_hold_says_what_was_measured() -> None:
    async def fails() -> str:
        require(True, "never")
        require(False, "only 3 of 4")
        return "unreachable"

    async def fails_inside_a_nursery() -> str:
        async with trio.open_nursery():
            raise NotShown("inside")

    async def holds() -> str:
        return "evidence"

    assert (await judge(fails))[:2] == (False, "only 3 of 4")
    assert (await judge(fails_inside_a_nursery))[:2] == (False, "inside")
    assert (await judge(holds))[:2] == (True, "evidence")


async def test_a_bug_is_not_taken_for_a_line_that_does_not_hold() -> None:
    async def bug() -> str:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ZeroDivisionError

    with pytest.raises(BaseExceptionGroup) as caught:
        await judge(bug)
    assert isinstance(first_leaf(caught.value), ZeroDivisionError)


def test_identities_and_counters_are_read_exactly() -> None:
    source, destination = lines_identity.CLIENT_IDENTITY, lines_identity.SERVER_IDENTITY
    line = f'... src.identity="{source}" dst.identity="{destination}" direction="inbound"'
    assert lines_identity.names_both(line, "inbound")
    assert not lines_identity.names_both(line, "outbound")
    assert not lines_identity.names_both(line.replace(destination, ""), "inbound")
    labels = f'reporter="source",source_principal="{source}",destination_principal="{destination}"'
    page = [
        f"istio_tcp_connections_opened_total{{{labels}}} 3.0",
        f'istio_tcp_connections_opened_total{{{labels},x="y"}} 2.0',
        f"istio_tcp_connections_closed_total{{{labels}}} 9.0",
    ]
    assert lines_identity.opened(page, "source") == 5
    assert lines_identity.opened(page, "destination") == 0


def test_additions_that_succeeded_are_counted() -> None:
    page = [
        'istio_cni_plugin_requests_total{command="ADD",code="0"} 3.0',
        'istio_cni_plugin_requests_total{command="ADD",code="11"} 5.0',
        'istio_cni_plugin_requests_total{command="DEL",code="0"} 7.0',
    ]
    assert lines_capture.successful_additions(page) == 3


def test_lines_are_numbered_one_by_one() -> None:
    numbers = [line.number for line in (*LINES, *WAYPOINT_LINES)]
    assert sorted([*numbers, ROTATION[0]]) == list(range(1, LAST + 1))
    assert LAST == 19
    assert lines_policy.ALLOWED != lines_policy.REFUSED
    assert lines_resilience.CLIENT == lines_policy.ALLOWED


def test_errors_of_the_lab_are_not_failed_lines() -> None:
    assert not issubclass(ConfigurationError, NotShown)


@pytest.mark.parametrize(
    "file", ["routes.yaml", "resilience.yaml", "limited.yaml", "only-get.yaml", lines_traces.MANIFEST.name]
)
def test_the_waypoints_manifests_are_sound(file: str) -> None:
    objects, problems = manifests.read([lines_waypoint._manifest(file)])
    assert problems == []
    assert objects


def test_a_fault_s_share_is_six_standard_deviations_wide() -> None:
    low, high = lines_requests._SHARE
    deviation = 100 * (0.3 * 0.7 / lines_requests._FAULTS) ** 0.5
    assert 5.9 * deviation < 30 - low < 6.2 * deviation
    assert high - 30 == 30 - low


def test_a_tenths_share_is_six_standard_deviations_wide() -> None:
    low, high = lines_waypoint._SHARE
    deviation = 100 * (0.1 * 0.9 / lines_waypoint._REQUESTS) ** 0.5
    assert 5.9 * deviation < 10 - low < 6.1 * deviation
    assert high - 10 == 10 - low

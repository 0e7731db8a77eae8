"""The other process of ``test_compiled.py``: does as told in one form of the hot modules, and says what came out.

``python transcribe.py`` reads a list of jobs and writes a list of results, each a pickle behind its length in 8 bytes.
"""

from __future__ import annotations

import pickle
import struct
import sys
from collections.abc import Callable
from typing import Any

from mesh import compiled
from mesh.errors import MeshError

Job = tuple[Any, ...]


def main() -> None:
    """Serve until standard input ends."""
    form = compiled.choose()
    write((form.name, form.detail, used()))
    while size := sys.stdin.buffer.read(8):
        jobs: list[Job] = pickle.loads(sys.stdin.buffer.read(struct.unpack(">Q", size)[0]))
        write([result_of(job) for job in jobs])


def write(value: object) -> None:
    data = pickle.dumps(value)
    sys.stdout.buffer.write(struct.pack(">Q", len(data)) + data)
    sys.stdout.buffer.flush()


def used() -> dict[str, str]:
    """Where the modules under test come from."""
    # These bring all along, and none may come before ``choose``.
    import waypoint.app  # noqa: F401
    import ztunnel.app
    import ztunnel.worker.app  # noqa: F401

    return {name: str(module.__file__) for name, module in sys.modules.items() if getattr(module, "__file__", None)}


def result_of(job: Job) -> object:
    kind, *arguments = job
    try:
        return KINDS[kind](*arguments)
    except MeshError as error:
        return repr(error)


def connect_request(headers: list[tuple[str, str]]) -> object:
    from mesh.hbone.codec import Baggage, decode_connect

    request = decode_connect(headers)
    baggage = Baggage.decode(request.baggage)
    names = ("target", "hostname", "port", "forwarded_for", "forwarded_host", "traceparent", "forwarded_network")
    return [repr(getattr(request, name)) for name in names], request.authority, repr(baggage), baggage.encode()


def plain_block(block: bytes) -> object:
    from mesh.hbone.header_codec import read_plain_block

    return read_plain_block(block)


def encoded(authority: str, forwarded: str, baggage: str, status: int) -> object:
    from mesh.hbone.codec import encode_connect, encode_response

    return (
        encode_connect(authority, forwarded=forwarded, baggage=baggage, traceparent=forwarded),
        encode_response(status, baggage=baggage),
    )


def addresses(text: str) -> object:
    from mesh.addresses import format_ip, is_loopback, parse_cidr, parse_ip, parse_port, parse_socket_address

    def tried(call: Callable[[str], object]) -> object:
        try:
            return call(text)
        except MeshError as error:
            return repr(error)

    found = [tried(parse_ip), tried(parse_socket_address), tried(parse_cidr), parse_port(text)]
    ip = found[0]
    return [repr(one) for one in found], str(found[1]), str(found[2]), isinstance(ip, bytes) and (
        format_ip(ip), is_loopback(ip)  # type: ignore[arg-type]
    )


def conversation(server: bool, chunks: list[bytes], deeds: list[tuple[int, int]]) -> object:
    """What a machine says, and what its owner is told, when a peer sends ``chunks`` and the owner does ``deeds``."""
    from mesh.hbone.codec import ErrorCode, encode_connect, encode_response
    from mesh.hbone.contract import HboneSettings, Http2Violation, Role
    from mesh.testing.hbone import Endpoint

    settings = HboneSettings(initial_stream_window=70_000, connection_window=140_000, max_frame=65_536, max_streams=5)
    end = Endpoint(Role.SERVER if server else Role.CLIENT, settings, consume=False, on_request=lambda _: None)
    opened = [] if server else [end.open(encode_connect("10.0.0.1:80")) for _ in range(3)]
    said: list[bytes] = [end.take()]
    violation = ""
    for chunk, (deed, number) in zip(chunks, deeds, strict=True):
        try:
            end.feed(chunk)
        except Http2Violation as error:
            violation = repr(error)
            break
        streams = end.requests if server else opened
        if streams:
            stream = streams[number % len(streams)]
            if deed == 1:
                stream.give_back()
            elif deed == 2:
                stream.send(bytes(number * 100), end=bool(number & 1))
            elif deed == 3:
                end.machine.reset_stream(stream.stream, ErrorCode.CANCEL)
            elif deed == 4 and server:
                end.machine.respond(stream.stream, encode_response(200 if number & 1 else 503), end=not number & 1)
        if deed == 5:
            end.machine.ping(b"12345678")
        elif deed == 6:
            end.machine.refill_budget()
        said.append(end.take())
    streams = end.requests if server else opened
    told = [(s.headers, bytes(s.received), s.ended, s.resets, s.unsent, s.events_when_over) for s in streams]
    return said, told, violation, end.going_aways, end.pings, sorted(end.machine.streams), end.machine.send_window


def access_record(form: str, texts: list[str], numbers: list[int], failed: bool) -> object:
    from mesh.addresses import SocketAddress, parse_ip
    from mesh.errors import ConnectFailed
    from mesh.identity import SpiffeId
    from mesh.telemetry.access_log import AccessLog, ConnectionRecord, NoMtls
    from mesh.testing.model import make_workload

    lines: list[bytes] = []

    class Output:
        def write(self, line: bytes) -> None:
            lines.append(line)

    output: Any = Output()
    log = AccessLog("json" if form == "json" else "text", "info", output, lambda: 1.75e9 + numbers[0] / 1000)
    address = SocketAddress(parse_ip("10.0.0.1"), numbers[1] & 0xFFFF)
    record = ConnectionRecord(
        direction="inbound" if failed else "outbound",
        source=address,
        destination=address,
        hbone_target=texts[0] or None,
        source_workload=make_workload(texts[1], "10.0.0.1", cluster_id=texts[2]) if texts[1] else None,
        destination_service=texts[3] or None,
        destination_identity=SpiffeId("cluster.local", "demo", "a"),
        no_mtls=NoMtls.FAST_PATH if numbers[2] & 1 else None,
        fast_path=bool(numbers[2] & 1),
        bytes_sent=numbers[0],
        bytes_received=numbers[1],
    )
    log.record(record, numbers[2] / 1000, ConnectFailed(texts[4]) if failed else None)
    log.denied("inbound", address, address, ConnectFailed(texts[4]))
    return lines


KINDS: dict[str, Callable[..., object]] = {
    "connect": connect_request,
    "block": plain_block,
    "encode": encoded,
    "addresses": addresses,
    "conversation": conversation,
    "record": access_record,
}

if __name__ == "__main__":
    main()

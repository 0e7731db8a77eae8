"""The other side of ``test_grpcio.py``: grpcio's blocking client and server, each in a process of its own.

``python grpcio_peer.py serve`` prints its port and serves until its stdin closes.
``python grpcio_peer.py call PORT CASE`` makes the calls of one case and prints what came of them as JSON.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

MIB = 1024 * 1024
OPTIONS = [
    ("grpc.max_receive_message_length", 200 * MIB),
    ("grpc.max_send_message_length", 200 * MIB),
]


# -- server ------------------------------------------------------------------------------------------------------------


def echo(request: bytes, context: Any) -> bytes:
    metadata = dict(context.invocation_metadata())
    context.set_trailing_metadata((("seen-clusterid", metadata.get("clusterid", "")),))
    return request


def echo_stream(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield from requests


def fail(request: bytes, context: Any) -> bytes:
    context.abort(grpc.StatusCode.PERMISSION_DENIED, "nicht erlaubt: 100 % für niemanden ✗")
    raise AssertionError


def fail_late(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
    yield next(requests)
    context.abort(grpc.StatusCode.DATA_LOSS, "späte Einsicht")


def sleepy(request: bytes, context: Any) -> bytes:
    while context.is_active():
        time.sleep(0.01)
    return b""


def blob(request: bytes, context: Any) -> bytes:
    return bytes(int(request))


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio ships no types
    def service(self, details: Any) -> Any:
        return {
            "/t/Echo": grpc.unary_unary_rpc_method_handler(echo),
            "/t/Fail": grpc.unary_unary_rpc_method_handler(fail),
            "/t/Sleepy": grpc.unary_unary_rpc_method_handler(sleepy),
            "/t/Blob": grpc.unary_unary_rpc_method_handler(blob),
            "/t/EchoStream": grpc.stream_stream_rpc_method_handler(echo_stream),
            "/t/FailLate": grpc.stream_stream_rpc_method_handler(fail_late),
        }.get(details.method)


def serve() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(16), options=OPTIONS)
    server.add_generic_rpc_handlers((Service(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0).wait()


# -- client ------------------------------------------------------------------------------------------------------------


def outcome(error: grpc.RpcError) -> dict[str, Any]:
    return {"code": error.code().name, "details": error.details()}


def call(port: str, case: str) -> dict[str, Any]:
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(10)
        result: dict[str, Any] = CASES[case](channel)
        return result


def case_unary(channel: grpc.Channel) -> dict[str, Any]:
    method = channel.unary_unary("/t/Who")
    answer, made = method.with_call(b"x", metadata=[("clusterid", "Kubernetes")], timeout=10)
    return {"answer": answer.decode(), "code": made.code().name}


def case_stream(channel: grpc.Channel) -> dict[str, Any]:
    sent = [bytes([number % 256]) * (number * 37 % 5000) for number in range(500)]
    received = list(channel.stream_stream("/t/EchoStream")(iter(sent), timeout=20))
    return {"equal": received == sent}


def case_error(channel: grpc.Channel) -> dict[str, Any]:
    try:
        channel.unary_unary("/t/Fail")(b"x", timeout=10)
    except grpc.RpcError as error:
        return outcome(error)
    return {}


def case_unknown(channel: grpc.Channel) -> dict[str, Any]:
    try:
        channel.unary_unary("/t/Nothing")(b"x", timeout=10)
    except grpc.RpcError as error:
        return outcome(error)
    return {}


def case_deadline(channel: grpc.Channel) -> dict[str, Any]:
    try:
        channel.unary_unary("/t/Sleepy")(b"x", timeout=0.2)
    except grpc.RpcError as error:
        return outcome(error)
    return {}


def case_cancel(channel: grpc.Channel) -> dict[str, Any]:
    pending = channel.unary_unary("/t/Sleepy").future(b"x", timeout=20)
    time.sleep(0.3)
    pending.cancel()
    try:
        pending.result()
    except grpc.FutureCancelledError:
        # The connection must still be of use.
        return {"echo": channel.unary_unary("/t/Echo")(b"after", timeout=10).decode()}
    return {}


def case_large(channel: grpc.Channel) -> dict[str, Any]:
    message = bytes(range(256)) * (100 * MIB // 256)
    return {"equal": channel.unary_unary("/t/Large")(message, timeout=60) == message}


def case_too_large(channel: grpc.Channel) -> dict[str, Any]:
    try:
        channel.unary_unary("/t/Echo")(bytes(5 * MIB), timeout=20)
    except grpc.RpcError as error:
        return outcome(error)
    return {}


def case_compressed(channel: grpc.Channel) -> dict[str, Any]:
    try:
        channel.unary_unary("/t/Echo")(bytes(10_000), timeout=10, compression=grpc.Compression.Gzip)
    except grpc.RpcError as error:
        return outcome(error)
    return {}


def case_many(channel: grpc.Channel) -> dict[str, Any]:
    good = 0
    lock = threading.Lock()

    def one(number: int) -> None:
        nonlocal good
        message = bytes([number % 256]) * 20_000
        if channel.unary_unary("/t/Echo")(message, timeout=20) == message:
            with lock:
                good += 1

    with futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(200)))
    return {"good": good}


CASES = {name.removeprefix("case_"): value for name, value in list(globals().items()) if name.startswith("case_")}

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        print(json.dumps(call(sys.argv[2], sys.argv[3])))

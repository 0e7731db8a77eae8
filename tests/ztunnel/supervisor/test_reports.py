from __future__ import annotations

import msgspec

from ztunnel.supervisor.reports import merge_dumps, merge_readiness


def report(serial: str, connections: int, pods: list[dict[str, object]]) -> bytes:
    return msgspec.msgpack.encode(
        {
            "certificates": [{"name": "spiffe://a", "serialNumber": serial}],
            "connections": [{"workload": "demo/a", "direction": "Inbound"}] * connections,
            "processes": [{"form": "compiled"}],
            "pods": pods,
        }
    )


def pod(uid: str, tunnels: int, *, described: bool = True) -> dict[str, object]:
    return {"uid": uid, "name": f"demo/{uid}", "described": described, "tunnelsOut": tunnels, "tunnelsIn": 1}


def test_rows_name_their_worker_and_pods_are_summed() -> None:
    merged = merge_dumps(
        {
            1: report("b", 1, [pod("u1", 3, described=False), pod("u2", 1)]),
            0: report("a", 2, [pod("u1", 2), {"uid": "u2", "pending": True}]),
        }
    )
    assert [(row["serialNumber"], row["worker"]) for row in merged["certificates"]] == [("a", 0), ("b", 1)]
    assert [row["worker"] for row in merged["connections"]] == [0, 0, 1]
    assert merged["processes"] == [{"form": "compiled", "worker": 0}, {"form": "compiled", "worker": 1}]
    first, second = merged["pods"]
    assert (first["tunnelsOut"], first["tunnelsIn"], first["described"]) == (5, 2, False)
    assert second == {"uid": "u2", "pending": True}


def test_no_worker_is_an_empty_dump() -> None:
    assert merge_dumps({}) == {"certificates": [], "connections": [], "processes": [], "pods": []}


def test_readiness_names_the_worker() -> None:
    reports = {1: msgspec.msgpack.encode(["draining", "x"]), 0: msgspec.msgpack.encode([])}
    assert merge_readiness(reports) == ["worker 1: draining", "worker 1: x"]

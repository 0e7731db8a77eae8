"""What workers tell of themselves, put together to what one ztunnel would show."""

from __future__ import annotations

from typing import Any

import msgspec

Flat = dict[str, Any]
Tables = dict[str, list[Flat]]

_tables = msgspec.msgpack.Decoder(Tables)
_words = msgspec.msgpack.Decoder(list[str])


def merge_dumps(reports: dict[int, bytes]) -> Tables:
    """Certificates, connections and processes of all workers, each with its number; pods once, with their sums.

    Args:
        reports: ``ztunnel.admin.dump.dump_traffic`` as MessagePack, by worker.
    """
    certificates: list[Flat] = []
    connections: list[Flat] = []
    processes: list[Flat] = []
    pods: dict[str, Flat] = {}
    for worker, content in sorted(reports.items()):
        tables = _tables.decode(content)
        certificates += [{**row, "worker": worker} for row in tables["certificates"]]
        connections += [{**row, "worker": worker} for row in tables["connections"]]
        processes += [{**row, "worker": worker} for row in tables["processes"]]
        for row in tables["pods"]:
            former = pods.get(row["uid"])
            pods[row["uid"]] = row if former is None else _joined(former, row)
    certificates.sort(key=lambda row: (row["name"], row["worker"]))
    return {
        "certificates": certificates,
        "connections": connections,
        "processes": processes,
        "pods": list(pods.values()),
    }


def _joined(one: Flat, other: Flat) -> Flat:
    """One pod as two workers have it. One that cannot serve it makes it pending."""
    if one.get("pending") or other.get("pending"):
        return one if one.get("pending") else other
    return {
        **one,
        "described": one["described"] and other["described"],
        "tunnelsOut": one["tunnelsOut"] + other["tunnelsOut"],
        "tunnelsIn": one["tunnelsIn"] + other["tunnelsIn"],
    }


def merge_readiness(reports: dict[int, bytes]) -> list[str]:
    """What stands in the way at each worker, in words."""
    return [
        f"worker {worker}: {reason}"
        for worker, content in sorted(reports.items())
        for reason in _words.decode(content)
    ]

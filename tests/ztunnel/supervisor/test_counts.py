"""A worker's end in the node's counters. What adds up is swept in ``tests/ztunnel/worker/test_counting.py``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from mesh.errors import ResponseFlag
from mesh.telemetry.metrics import ConnectionHandles, L4Labels, L4Metrics, WorkloadLabels
from ztunnel.fanout.messages_codec import Counts, Series
from ztunnel.supervisor.counts import WorkerCounts
from ztunnel.worker.counting import Counting

A_TO_B = L4Labels("source", WorkloadLabels("a"), WorkloadLabels("b"))


def metrics() -> L4Metrics:
    return L4Metrics(CollectorRegistry(), monotonic=lambda: 0.0)


def of(node: L4Metrics) -> ConnectionHandles:
    ((labels, handles),) = node.series()
    assert labels == A_TO_B
    return handles


def test_a_worker_that_ends_leaves_no_connection_open_and_no_counter_lower() -> None:
    node, worker = metrics(), metrics()
    link, counting = WorkerCounts(node), Counting(worker)
    handles = worker.handles(A_TO_B)
    for _ in range(3):
        handles.opened()
    handles.closed()
    handles.sent(500)
    worker.sockets_open["source"] = 2
    link.add(counting.gained(1))
    assert link.pending == 1
    assert (of(node).opened_count, of(node).closed_count, of(node).sent_bytes, of(node).failures) == (3, 1, 500, None)
    assert link.end() == 2
    assert (of(node).opened_count, of(node).closed_count, of(node).sent_bytes) == (3, 3, 500)
    assert of(node).failures == {ResponseFlag.NONE: 2}
    assert node.sockets_open == {"source": 0, "destination": 0}
    assert link.pending == 0
    assert link.end() == 0
    # Its successor counts from zero, and the node goes on from where it was.
    worker = metrics()
    worker.handles(A_TO_B).opened()
    WorkerCounts(node).add(Counting(worker).gained(0))
    assert (of(node).opened_count, of(node).closed_count) == (4, 3)


def test_counts_of_labels_that_were_never_named_are_left_out() -> None:
    node = metrics()
    WorkerCounts(node).add(Counts(series=[Series(5, 1, 1, 1, 1, {})]))
    assert list(node.series()) == []

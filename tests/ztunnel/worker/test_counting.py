"""What a worker counts and what the supervisor adds up agree; nothing is counted twice or goes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mesh.errors import ResponseFlag
from mesh.telemetry.metrics import L4Labels, L4Metrics, WorkloadLabels
from ztunnel.fanout.messages_codec import Counts, decode_to_supervisor, encode
from ztunnel.supervisor.counts import WorkerCounts
from ztunnel.worker.counting import Counting

LABELS = [
    L4Labels("source", WorkloadLabels("a"), WorkloadLabels("b")),
    L4Labels("destination", WorkloadLabels("a"), WorkloadLabels("b"), mutual_tls=True),
    L4Labels("source", WorkloadLabels("c")),
]


def metrics() -> L4Metrics:
    return L4Metrics(CollectorRegistry(), monotonic=lambda: 0.0)


def shown(node: L4Metrics) -> dict[L4Labels, tuple[int, int, int, int, dict[ResponseFlag, int]]]:
    return {
        labels: (
            handles.opened_count,
            handles.closed_count,
            handles.sent_bytes,
            handles.received_bytes,
            dict(handles.failures or {}),
        )
        for labels, handles in node.series()
    }


def told(counting: Counting, pending: int = 0) -> Counts:
    """As it arrives at the other end of a channel."""
    message = decode_to_supervisor(encode(counting.gained(pending)))
    assert isinstance(message, Counts)
    return message


steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(LABELS),
        st.sampled_from(["open", "close", "fail", "bytes", "tell"]),
        st.integers(1, 1000),
    ),
    max_size=60,
)


@given(steps)
def test_the_node_shows_the_sum_of_its_workers(steps: list[tuple[int, L4Labels, str, int]]) -> None:
    node = metrics()
    workers = [metrics(), metrics()]
    counting = [Counting(worker) for worker in workers]
    links = [WorkerCounts(node), WorkerCounts(node)]
    for number, labels, act, amount in steps:
        handles = workers[number].handles(labels)
        if act == "open":
            handles.opened()
            workers[number].sockets_open[labels.reporter] += 1
        elif act in ("close", "fail") and handles.opened_count > handles.closed_count:
            if act == "fail":
                handles.failed(ResponseFlag.DENY)
            handles.closed()
            workers[number].sockets_open[labels.reporter] -= 1
        elif act == "bytes":
            handles.sent(amount)
            handles.received(2 * amount)
        elif act == "tell":
            before = shown(node)
            links[number].add(told(counting[number]))
            after = shown(node)
            for known, values in before.items():
                assert all(now >= then for now, then in zip(after[known][:4], values[:4], strict=True))
    for link, one in zip(links, counting, strict=True):
        link.add(told(one))
    for labels, (opened, closed, sent, received, failures) in shown(node).items():
        parts = [worker.handles(labels) for worker in workers]
        assert opened == sum(part.opened_count for part in parts)
        assert closed == sum(part.closed_count for part in parts)
        assert sent == sum(part.sent_bytes for part in parts)
        assert received == sum(part.received_bytes for part in parts)
        flag = ResponseFlag.DENY
        assert failures.get(flag, 0) == sum((part.failures or {}).get(flag, 0) for part in parts)
    for reporter, number_open in node.sockets_open.items():
        assert number_open == sum(worker.sockets_open[reporter] for worker in workers)


def test_only_what_changed_is_told_and_labels_once() -> None:
    worker = metrics()
    counting = Counting(worker)
    worker.handles(LABELS[0]).opened()
    first = told(counting)
    assert (len(first.labels), len(first.series)) == (1, 1)
    assert (told(counting).labels, told(counting).series) == ({}, [])
    worker.handles(LABELS[0]).sent(1)
    again = told(counting)
    assert again.labels == {}
    assert [series.labels for series in again.series] == list(first.labels)

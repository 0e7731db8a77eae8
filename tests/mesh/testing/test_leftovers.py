"""The inventory sees what is there; the root tier shows the rest (tests/test_harness.py)."""

from __future__ import annotations

import os
import subprocess

from mesh.testing.leftovers import NOTHING, Inventory, children, take_inventory


def test_this_process_is_seen() -> None:
    assert any(line.startswith(f"{os.getpid()}: ") for line in take_inventory().processes)


def test_a_child_is_seen_until_it_ends() -> None:
    before = take_inventory()
    with subprocess.Popen(["sleep", "4711.25"]) as child:
        try:
            assert children(os.getpid()) == [f"{child.pid}: sleep 4711.25"]
            (line,) = take_inventory().since(before, "sleep 4711.25")
            assert line.startswith(f"process {child.pid}: sleep 4711.25 (")
        finally:
            child.kill()
    assert children(os.getpid()) == []
    assert take_inventory().since(before, "sleep 4711.25") == []


def test_only_what_is_new_and_carries_the_name() -> None:
    before = Inventory(frozenset({"t1-a"}), frozenset({"/cg"}), frozenset(), frozenset())
    after = Inventory(
        frozenset({"t1-a", "t1-b", "t2-c"}),
        frozenset({"/cg", "/cg/t1"}),
        frozenset({"/run/t1/bpf"}),
        frozenset({"7: t1-agent (/)"}),
    )
    assert after.since(before, "t1") == [
        "network namespace t1-b",
        "cgroup /cg/t1",
        "BPF mount /run/t1/bpf",
        "process 7: t1-agent (/)",
    ]
    assert "network namespace t2-c" in after.since(before)
    assert NOTHING.since(after) == []

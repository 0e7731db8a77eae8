"""Lines 11, 12, 17 and 18: a waypoint by one command, its routes, its replicas, and that there is no way past it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import trio

from ambimesh.demo.stage import NAMESPACE, Stage, require
from ambimesh.lab import manifests
from controlplane.reconcile.waypoints import GATEWAY_NAME_LABEL, REPLICAS_ANNOTATION
from mesh.addresses import parse_ip
from resources.objects import Gateway, Namespace, Pod

_URL = "http://echo/"
USE = "istio.io/use-waypoint"
_REQUESTS = 2000
_SHARE = (6.0, 14.0)
"""Percent of 2,000 requests that a tenth may come to: six standard deviations."""


async def prepare(stage: Stage, number: int) -> None:
    """Do quietly what a line needs of the first two, when they are not shown."""
    if number > 11 and not stage.has_waypoint:
        await applied(stage)
    if number > 12:
        apply(stage, "routes.yaml")


async def applied(stage: Stage) -> str:
    """One command makes a waypoint and sends the namespace's traffic through it; the caller stays known."""
    started = trio.current_time()
    await _ambimesh(stage, "waypoint", "apply", "-n", NAMESPACE, "--enroll-namespace", "--wait")
    took = trio.current_time() - started
    stage.has_waypoint = True
    report = await stage.call("client-a", _URL)
    headers: dict[str, str] = report["headers"]
    own = stage.address("client-a")
    require(headers.get("x-forwarded-for") == own, f"the server was told {headers.get('x-forwarded-for')}, not {own}")
    peer = report["peer"].rpartition(":")[0]
    require(parse_ip(peer) != parse_ip(own), "the call did not pass the waypoint")
    return f"ready {took:.1f} s after the command; the server sees the waypoint {peer} and is told of client {own}"


async def routed(stage: Stage) -> str:
    """Requests with a header go to one version, the others to both by weight; one path is redirected."""
    apply(stage, "routes.yaml")

    async def redirected() -> bool:
        _, text = await stage.curl("client-a", f"{_URL}old/x", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}")
        return text == "301 http://echo/new/x"

    await stage.until(redirected, 10, lambda: "/old is not redirected")
    canary = await ask(stage, "--count", "50", "--header", "x-canary: yes")
    require(canary["pods"] == {"echo-2": 50}, f"with the header, {canary} answered 50 requests")
    split = await ask(stage, "--count", str(_REQUESTS))
    share = 100 * split["pods"].get("echo-2", 0) / _REQUESTS
    require(split["statuses"] == {"200": _REQUESTS}, f"of {_REQUESTS} requests: {split}")
    require(_SHARE[0] < share < _SHARE[1], f"echo-2 answered {share:.1f} % of {_REQUESTS} requests, not 10")
    rate = _REQUESTS / float(split["seconds"])
    return (
        f"with x-canary: yes all 50 by echo-2; of {_REQUESTS} others {share:.1f} % (weight 10), none failed, "
        f"{rate:.0f}/s on one connection; /old/x redirected to /new/x"
    )


async def replaced(stage: Stage) -> str:
    """All replicas are replaced while clients ask, on connections that are kept and on new ones; no request fails."""
    stage.store.patch_metadata(Gateway, NAMESPACE, "waypoint", annotations={REPLICAS_ANNOTATION: "2"})
    await stage.until(lambda: len(_ready_replicas(stage)) == 2, 20, lambda: f"ready: {_ready_replicas(stage)}")
    before = _ready_replicas(stage)
    reports: list[dict[str, Any]] = []
    ended = trio.Event()

    async def load(*options: str) -> None:
        while not ended.is_set():
            reports.append(await ask(stage, "--count", "300", *options))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        nursery.start_soon(load, "--new")
        started = trio.current_time()
        await _ambimesh(stage, "waypoint", "restart", "waypoint", "-n", NAMESPACE, "--wait")
        took = trio.current_time() - started
        ended.set()
    statuses: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    for report in reports:
        statuses.update(report["statuses"])
        failures.update(report["failures"])
    require(not before & _ready_replicas(stage), "not all replicas were replaced")
    require(statuses.keys() == {"200"} and not failures, f"of the requests meanwhile: {statuses}, {failures}")
    return (
        f"2 of 2 replicas replaced in {took:.1f} s; of {statuses['200']} requests meanwhile, on kept and on new "
        "connections, 0 failed"
    )


def _ready_replicas(stage: Stage) -> set[str]:
    return {
        pod.metadata.name
        for pod in stage.store.of_kind(Pod)
        if pod.metadata.labels.get(GATEWAY_NAME_LABEL) == "waypoint" and pod.status.ready
    }


async def _ambimesh(stage: Stage, *arguments: str) -> None:
    environment = {**os.environ, "AMBIMESH_LAB": stage.lab.layout.name}
    command = [sys.executable, "-m", "ambimesh", *arguments]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=environment)
    require(done.returncode == 0, f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()[-300:]}")


async def guarded(stage: Stage) -> str:
    """A policy of identity and method holds at the waypoint, and calls past the waypoint are refused."""
    apply(stage, "only-get.yaml")

    async def status(pod: str, *options: str, path: str = "") -> str:
        _, text = await stage.curl(pod, _URL + path, "-o", "/dev/null", "-w", "%{http_code}", *options)
        return text

    try:

        async def refused() -> bool:
            return await status("client-a", "-X", "DELETE") == "403"

        took = await stage.until(refused, 10, lambda: "DELETE is still admitted")
        require(await status("client-a") == "200", "client-a may not GET")
        require(await status("client-a", path="admin/x") == "403", "client-a may GET /admin/x")
        require(await status("client-b") == "403", "client-b may GET")

        async def no_way_past() -> bool:
            return not await stage.reaches("client-a", f"http://{stage.address('echo-2')}:8080/")

        await stage.until(no_way_past, 10, lambda: "the pod's own address leads past the waypoint")
    finally:
        manifests.delete(stage.store, [_manifest("only-get.yaml")])
        stage.store.patch_metadata(Namespace, "", NAMESPACE, labels={USE: None})
    return (
        f"client-a GET 200, DELETE 403 ({took:.2f} s after the policy was applied), GET /admin/x 403, client-b 403; "
        "client-a by the pod's own address: refused"
    )


async def ask(stage: Stage, *options: str, url: str = _URL, pod: str = "client-a") -> dict[str, Any]:
    """Make requests from a pod (``ambimesh.apps.http_client``); what came back.

    Raises:
        NotShown: the program failed.
    """
    command = ("python3", "-m", "ambimesh.apps.http_client", url, *options)
    status, text = await stage.execute(pod, *command, timeout=60)
    require(status == 0, f"http_client ended with {status}")
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def apply(stage: Stage, file: str) -> None:
    """Apply one of the shipped manifests for waypoints.

    Raises:
        NotShown: it was refused.
    """
    report = manifests.apply(stage.store, [_manifest(file)])
    require(not report.problems, "; ".join(report.problems))


def _manifest(file: str) -> Path:
    return Path(__file__).parent.parent / "manifests" / "waypoint" / file

"""Lines 11 to 13: a waypoint by one command; routes by header and weight; policies of methods, and no way past them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import trio

from ambimesh.demo.stage import NAMESPACE, Stage, require
from ambimesh.lab import manifests
from mesh.addresses import parse_ip
from resources.objects import Namespace

_URL = "http://echo/"
USE = "istio.io/use-waypoint"
_REQUESTS = 2000
_SHARE = (6.0, 14.0)
"""Percent of 2,000 requests that a tenth may come to: six standard deviations."""


async def applied(stage: Stage) -> str:
    """One command makes a waypoint and sends the namespace's traffic through it; the caller stays known."""
    environment = {**os.environ, "AMBIMESH_LAB": stage.lab.layout.name}
    command = [sys.executable, "-m", "ambimesh", "waypoint", "apply", "-n", NAMESPACE, "--enroll-namespace", "--wait"]
    started = trio.current_time()
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=environment)
    took = trio.current_time() - started
    require(done.returncode == 0, f"waypoint apply ended with {done.returncode}: {done.stderr.decode()[-300:]}")
    report = await stage.call("client-a", _URL)
    headers: dict[str, str] = report["headers"]
    own = stage.address("client-a")
    require(headers.get("x-forwarded-for") == own, f"the server was told {headers.get('x-forwarded-for')}, not {own}")
    peer = report["peer"].rpartition(":")[0]
    require(parse_ip(peer) != parse_ip(own), "the call did not pass the waypoint")
    return f"ready {took:.1f} s after the command; the server sees the waypoint {peer} and is told of client {own}"


async def routed(stage: Stage) -> str:
    """Requests with a header go to one version, the others to both by weight; one path is redirected."""
    _apply(stage, "routes.yaml")

    async def redirected() -> bool:
        _, text = await stage.curl("client-a", f"{_URL}old/x", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}")
        return text == "301 http://echo/new/x"

    await stage.until(redirected, 10, lambda: "/old is not redirected")
    canary = await _ask(stage, "--count", "50", "--header", "x-canary: yes")
    require(canary["pods"] == {"echo-2": 50}, f"with the header, {canary} answered 50 requests")
    split = await _ask(stage, "--count", str(_REQUESTS))
    share = 100 * split["pods"].get("echo-2", 0) / _REQUESTS
    require(split["statuses"] == {"200": _REQUESTS}, f"of {_REQUESTS} requests: {split}")
    require(_SHARE[0] < share < _SHARE[1], f"echo-2 answered {share:.1f} % of {_REQUESTS} requests, not 10")
    rate = _REQUESTS / float(split["seconds"])
    return (
        f"with x-canary: yes all 50 by echo-2; of {_REQUESTS} others {share:.1f} % (weight 10), none failed, "
        f"{rate:.0f}/s on one connection; /old/x redirected to /new/x"
    )


async def guarded(stage: Stage) -> str:
    """A policy of identity and method holds at the waypoint, and calls past the waypoint are refused."""
    _apply(stage, "only-get.yaml")

    async def status(pod: str, *options: str) -> str:
        _, text = await stage.curl(pod, _URL, "-o", "/dev/null", "-w", "%{http_code}", *options)
        return text

    try:

        async def refused() -> bool:
            return await status("client-a", "-X", "DELETE") == "403"

        took = await stage.until(refused, 10, lambda: "DELETE is still admitted")
        require(await status("client-a") == "200", "client-a may not GET")
        require(await status("client-b") == "403", "client-b may GET")

        async def no_way_past() -> bool:
            return not await stage.reaches("client-a", f"http://{stage.address('echo-2')}:8080/")

        await stage.until(no_way_past, 10, lambda: "the pod's own address leads past the waypoint")
    finally:
        manifests.delete(stage.store, [_manifest("only-get.yaml")])
        stage.store.patch_metadata(Namespace, "", NAMESPACE, labels={USE: None})
    return (
        f"client-a GET 200, DELETE 403 ({took:.2f} s after the policy was applied), client-b 403; "
        "client-a by the pod's own address: refused"
    )


async def _ask(stage: Stage, *options: str) -> dict[str, Any]:
    command = ("python3", "-m", "ambimesh.apps.http_client", _URL, *options)
    status, text = await stage.execute("client-a", *command, timeout=60)
    require(status == 0, f"http_client ended with {status}")
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def _apply(stage: Stage, file: str) -> None:
    report = manifests.apply(stage.store, [_manifest(file)])
    require(not report.problems, "; ".join(report.problems))


def _manifest(file: str) -> Path:
    return Path(__file__).parent.parent / "manifests" / "waypoint" / file

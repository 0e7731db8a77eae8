"""Lines 7 and 8: authorization of identities, live; STRICT, PERMISSIVE and probes."""

from __future__ import annotations

from ambimesh.demo.stage import NAMESPACE, Stage, require

ALLOWED = "client-a"
REFUSED = "client-b"
_PORT = 9000


async def authorization(stage: Stage) -> str:
    """A policy admits account a and refuses b, also on a connection that b has open."""
    address = stage.address("tcp-echo")
    url = f"http://{stage.address('echo-2')}:8080/"
    async with stage.client(REFUSED, address, _PORT, "--every", "0.02") as live:
        await stage.until(lambda: live.count("echoed") > 0, 5, lambda: "client-b's connection did not echo")
        stage.apply("allow-client-a.yaml")
        try:
            cut = await stage.until(
                lambda: live.process.returncode is not None, 10, lambda: "client-b's live connection was not cut"
            )
            exchanges = next((one["exchanges"] for one in live.events if "exchanges" in one), 0)
            status, _ = await stage.curl(REFUSED, url)
            require(status != 0, "a new connection of client-b was admitted")
            await stage.call(ALLOWED, url)
        finally:
            stage.delete("allow-client-a.yaml")
    await stage.until(
        lambda: stage.reaches(REFUSED, url), 10, lambda: "client-b is still refused with the policy gone"
    )
    return (
        f"live connection of client-b cut {cut:.2f} s after the policy was applied ({exchanges} exchanges before); "
        f"new one refused (curl {status}), client-a admitted; without the policy client-b is admitted again"
    )


async def strict_and_permissive(stage: Stage) -> str:
    """STRICT refuses a client outside the mesh, PERMISSIVE admits it; probes pass in both."""
    target = stage.address("echo-2")
    url = f"http://{target}:8080/healthz"
    shown: list[str] = []
    try:
        for file, mode, admitted in (("strict.yaml", "STRICT", False), ("permissive.yaml", "PERMISSIVE", True)):
            stage.apply(file)

            async def as_wanted(admitted: bool = admitted) -> bool:
                return await stage.reaches("visitor", url, namespace="outside") == admitted

            took = await stage.until(
                as_wanted, 10, lambda mode=mode: f"under {mode} the client outside is not treated so"  # type: ignore[misc]
            )
            probe = await stage.probe("node2", url)
            require(probe == 0, f"the node's probe failed under {mode}: curl ended with {probe}")
            inside = await stage.reaches(ALLOWED, url)
            require(inside, f"client-a of the mesh is refused under {mode}")
            shown.append(f"{mode}: outside {'admitted' if admitted else 'refused'} ({took:.2f} s), probe passed")
    finally:
        stage.delete("strict.yaml")
    require(stage.pod("echo-2").status.ready, f"pod {NAMESPACE}/echo-2 is not ready any more")
    return "; ".join(shown)

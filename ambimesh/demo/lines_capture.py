"""Lines 1 to 3: the wire before enrolment, the enrolment, the wire after it."""

from __future__ import annotations

from ambimesh.demo import pod_state
from ambimesh.demo.stage import NAMESPACE, Stage, require
from ambimesh.lab import pods
from ambimesh.lab.http_client import get
from ambimesh.lab.mesh_processes import AGENT_HTTP_PORT
from resources.base import ObjectMeta
from resources.objects import Pod
from resources.pod import Container, PodSpec

CLIENT = "client-a"
FAR_ECHO = "echo-2"
LATE = "late"
PODS = ("client-a", "client-b", "echo-1", "echo-2", "tcp-echo")


async def readable_before(stage: Stage) -> str:
    """Before enrolment a marker can be read between the nodes."""
    for name in PODS:
        stage.before[name] = await pod_state.snapshot(pods.place_of(stage.lab, stage.pod(name)))
    accounts = sorted({stage.pod(name).spec.account for name in PODS})
    require(len(accounts) == 3, f"the pods run as {', '.join(accounts)}, which are not three accounts")
    marker = stage.marker()
    async with stage.wire() as recording:
        await stage.call(CLIENT, f"http://{stage.address(FAR_ECHO)}:8080/{marker}")
    seen = recording.carrying(marker)
    require(bool(seen), f"the marker was not on the link among {len(recording.packets())} TCP segments")
    return (
        f"{len(stage.lab.nodes)} nodes, accounts {', '.join(accounts)}; marker {marker} read in {len(seen)} segments, "
        f"first {seen[0].source} > {seen[0].destination}"
    )


async def enrolled_without_restart(stage: Stage) -> str:
    """The label captures running pods as they are, and new ones through the CNI plugin."""
    processes = {name: stage.process_ids(name) for name in PODS}
    took = await stage.enrol()
    changed = [name for name in PODS if stage.process_ids(name) != processes[name]]
    require(not changed, f"other processes than before in {', '.join(changed)}")
    before = await _additions(stage)
    metadata = ObjectMeta(name=LATE, namespace=NAMESPACE, labels={"app": LATE})
    spec = PodSpec(
        containers=(Container(name="client", command=("sleep", "infinity")),),
        node_name="node1",
        service_account_name=CLIENT,
        termination_grace_period_seconds=1,
    )
    stage.store.apply(Pod(metadata=metadata, spec=spec))
    await stage.until(
        lambda: stage.pod(LATE).status.ready and not stage.uncaptured(), 20, lambda: f"pod {LATE} is not captured"
    )
    added = await _additions(stage) - before
    require(added >= 1, "the new pod did not come through the CNI plugin: the agent counted no ADD")
    report = await stage.call(LATE, f"http://{stage.address(FAR_ECHO)}:8080/")
    require(report["peer"].startswith(f"{stage.address(LATE)}:"), f"the new pod was seen as {report['peer']}")
    return (
        f"{len(PODS)} running pods captured in {took:.2f} s, same processes as before; new pod {LATE} enrolled by "
        f"{added:g} CNI ADD and carried at once"
    )


async def only_tls(stage: Stage) -> str:
    """On the link only TLS to port 15008; nothing was changed in any pod."""
    marker = stage.marker()
    async with stage.wire() as recording:
        for path in (f"http://{stage.address(FAR_ECHO)}:8080/{marker}", f"http://echo.{NAMESPACE}/{marker}"):
            for _ in range(3):
                await stage.call(CLIENT, path)
        v6 = stage.pod(FAR_ECHO).status.addresses[1]
        await stage.call(CLIENT, f"http://[{v6}]:8080/{marker}")
    require(not recording.shows(marker), "the marker can still be read on the link")
    beside = recording.beside_tunnels()
    require(not beside, f"{len(beside)} segments beside port 15008, first {beside[:1]}")
    require(recording.tunnel_bytes() > 0, "nothing was carried by port 15008 either")
    require(not recording.not_tls(), f"connections to 15008 without TLS: {recording.not_tls()[:2]}")
    for name in PODS:
        changed = pod_state.differences(
            stage.before.get(name, {}), await pod_state.snapshot(pods.place_of(stage.lab, stage.pod(name)))
        )
        require(name not in stage.before or not changed, f"pod {name}: {'; '.join(changed)}")
    kinds = ", ".join(next(iter(stage.before.values()), {}))
    compared = f"in {len(stage.before)} pods the same {kinds} as before" if stage.before else "pods not compared"
    return (
        f"7 calls: {recording.tunnel_bytes()} bytes, all to or from port 15008, {len(recording.first_bytes())} new "
        f"connections, all TLS; marker 0 times; {compared}"
    )


async def _additions(stage: Stage) -> float:
    """CNI ADDs that the agent of node1 has answered with success."""
    answer = await get(stage.lab.nodes[0].netns, AGENT_HTTP_PORT, "/metrics")
    return successful_additions(answer.body.decode().splitlines())


def successful_additions(lines: list[str]) -> float:
    """CNI ADDs answered with code 0 that a metrics page counts."""
    counted = [line for line in lines if line.startswith("istio_cni_plugin_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in counted if 'command="ADD"' in line and 'code="0"' in line)

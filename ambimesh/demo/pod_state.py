"""What a mesh could have changed in a pod's namespace: packet filter rules, routing rules, kernel parameters."""

from __future__ import annotations

import re
import shutil

from ambimesh.lab.programs import Place, run_for_status

_COUNTERS = re.compile(r"\[\d+:\d+\]")
_VOLATILE = re.compile(r"nf_conntrack_count|neigh\.[^.]+\.(base_reachable|retrans)")


async def snapshot(place: Place) -> dict[str, str]:
    """The state by kind. Only the namespace is entered: what is read is the pod's, the programs are the machine's."""
    inside = Place(netns=place.netns)
    taken: dict[str, str] = {}
    commands = {
        "iptables": ["iptables-save"],
        "ip6tables": ["ip6tables-save"],
        "nftables": ["nft", "list", "ruleset"],
        "ip rules": ["ip", "rule"],
        "IPv6 rules": ["ip", "-6", "rule"],
        "routes": ["ip", "route", "show", "table", "all"],
        "sysctls": ["sysctl", "-a", "--pattern", r"^net\."],
    }
    for name, command in commands.items():
        if shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            continue  # a tool that is not installed has set nothing either; nft shows the rules of both
        _, output, _ = await run_for_status(command, place=inside)
        taken[name] = normal(output.decode(errors="replace"))
    return taken


def normal(text: str) -> str:
    """The text without what changes by itself: comments, counters, the number of tracked connections."""
    lines = (_COUNTERS.sub("", line).rstrip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("#") and not _VOLATILE.search(line))


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Kinds that changed, each with its first changed lines."""
    found: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        old, new = set(before.get(name, "").splitlines()), set(after.get(name, "").splitlines())
        changed = sorted(old ^ new)
        if changed:
            found.append(f"{name}: {'; '.join(changed[:3])}")
    return found

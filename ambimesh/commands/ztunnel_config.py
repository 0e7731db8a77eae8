"""``ambimesh ztunnel-config``: what a node's ztunnel works from, out of its ``/config_dump``, and how much it logs.

The columns are those ambient users know from istioctl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from ambimesh import output
from ambimesh.commands.ztunnel_options import Ztunnels, about_ztunnels
from ambimesh.dump_codec import Dump, read_dump
from ambimesh.output import OutputFormat, console
from mesh.errors import ConfigurationError, InvalidMessage
from mesh.telemetry.log import LEVELS, level_named

app = typer.Typer(no_args_is_help=True, help="Show what a node's ztunnel works from.")

Item = dict[str, Any]
_LEVELS = ", ".join(LEVELS)
DumpFile = Annotated[Path | None, typer.Option("--file", "-f", help="A saved /config_dump, instead of a ztunnel.")]


class Direction(StrEnum):
    """What ``--direction`` takes; dumps write it with a capital."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Section:
    """One kind of thing in the dump: its key, the heads of its table and how a row is made."""

    def __init__(self, key: str, columns: Sequence[str], row: Callable[[Item], list[str]]) -> None:
        self.key = key
        self.columns = list(columns)
        self.row = row

    def items(self, dump: Dump) -> list[Item]:
        """The section's part of a dump.

        Raises:
            InvalidMessage: it is not what this command reads.
        """
        found = dump.get(self.key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise InvalidMessage(f"ztunnel's dump holds no list of objects under {self.key}: is it another version?")
        return found

    def rows(self, dump: Dump) -> list[list[str]]:
        """The table's rows, sorted."""
        return sorted(self.row(item) for item in self.items(dump))


def text_of(item: Item, key: str, missing: str = "") -> str:
    """A field as a cell: lists joined by commas, what is missing or null as ``missing``."""
    value = item.get(key)
    if value is None or value == "" or value == []:
        return missing
    if isinstance(value, list):
        return ",".join(str(one) for one in value)
    return str(value)


def _certificate(item: Item) -> list[str]:
    valid = item.get("valid")
    return [
        text_of(item, "name"),
        text_of(item, "type"),
        text_of(item, "status"),
        "" if valid is None else str(valid).lower(),
        text_of(item, "serialNumber"),
        text_of(item, "notAfter"),
        text_of(item, "notBefore"),
    ]


WORKLOADS = Section(
    "workloads",
    ["NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"],
    lambda one: [
        text_of(one, "namespace"),
        text_of(one, "name"),
        text_of(one, "addresses", "None"),
        text_of(one, "node"),
        text_of(one, "waypoint", "None"),
        text_of(one, "protocol", "TCP"),
    ],
)
SERVICES = Section(
    "services",
    ["NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"],
    lambda one: [
        text_of(one, "namespace"),
        text_of(one, "name"),
        text_of(one, "vips", "None"),
        text_of(one, "waypoint", "None"),
        text_of(one, "endpoints"),
    ],
)
POLICIES = Section(
    "policies",
    ["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"],
    lambda one: [text_of(one, "namespace"), text_of(one, "name"), text_of(one, "action"), text_of(one, "scope")],
)
CERTIFICATES = Section(
    "certificates",
    ["CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"],
    _certificate,
)
CONNECTIONS = Section(
    "connections",
    ["WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"],
    lambda one: [
        text_of(one, "workload"),
        text_of(one, "direction"),
        text_of(one, "local"),
        text_of(one, "remote"),
        text_of(one, "remoteTarget"),
        text_of(one, "protocol"),
    ],
)
SECTIONS = (WORKLOADS, SERVICES, POLICIES, CERTIFICATES, CONNECTIONS)


@app.command()
@about_ztunnels
def workload(
    asked: Ztunnels,
    file: DumpFile = None,
    address: Annotated[str, typer.Option("--address", help="Only workloads with this address.")] = "",
    namespace: Annotated[str, typer.Option("--workload-namespace", help="Only workloads of this namespace.")] = "",
    on_node: Annotated[str, typer.Option("--workload-node", help="Only workloads on this node.")] = "",
) -> None:
    """Show the workloads it knows."""

    def wanted(one: Item) -> bool:
        return (
            (not address or address in (one.get("addresses") or ()))
            and (not namespace or one.get("namespace") == namespace)
            and (not on_node or one.get("node") == on_node)
        )

    _show([WORKLOADS], asked, file, wanted)


@app.command()
@about_ztunnels
def service(asked: Ztunnels, file: DumpFile = None) -> None:
    """Show the Services it knows, with healthy and all endpoints."""
    _show([SERVICES], asked, file)


@app.command()
@about_ztunnels
def policy(asked: Ztunnels, file: DumpFile = None) -> None:
    """Show the authorization policies it enforces."""
    _show([POLICIES], asked, file)


@app.command()
@about_ztunnels
def certificate(asked: Ztunnels, file: DumpFile = None) -> None:
    """Show the certificates of the identities on its node."""
    _show([CERTIFICATES], asked, file)


@app.command()
@about_ztunnels
def connections(
    asked: Ztunnels,
    file: DumpFile = None,
    direction: Annotated[
        Direction | None, typer.Option("--direction", case_sensitive=False, help="Only inbound or outbound ones.")
    ] = None,
) -> None:
    """Show the connections it carries now."""

    def wanted(one: Item) -> bool:
        return direction is None or str(one.get("direction")).lower() == direction

    _show([CONNECTIONS], asked, file, wanted)


@app.command("all")
@about_ztunnels
def everything(asked: Ztunnels, file: DumpFile = None) -> None:
    """Show all of the above."""
    _show(SECTIONS, asked, file)


@app.command("log")
@about_ztunnels
def log_(
    asked: Ztunnels,
    level: Annotated[str, typer.Option("--level", metavar="LEVEL", help=f"Of the process log: {_LEVELS}.")] = "",
    access: Annotated[
        str, typer.Option("--access-level", metavar="LEVEL", help="Of the access log: warning for failures only.")
    ] = "",
) -> None:
    """Show how much it logs, or have it log more or less until it is restarted."""
    wish = {name: level_named(text) for name, text in (("level", level), ("access", access)) if text}
    # Both at once, so that a ztunnel that cannot do one does neither.
    path, method = ("/logging?" + urlencode(wish), "POST") if wish else ("/logging", "GET")
    found = {node: _levels(node, said) for node, said in asked.ask(path, method).items()}
    if asked.out is not OutputFormat.SHORT:
        output.print_value(next(iter(found.values())) if len(found) == 1 else found, asked.out)
        return
    output.print_table(
        ["NODE", "LEVEL", "ACCESS LEVEL"],
        [[node, text_of(one, "level"), text_of(one, "access", "unknown")] for node, one in found.items()],
    )


def _levels(node: str, said: bytes) -> Item:
    """Lines of ``name: level``; other names than ours are kept."""
    pairs = [line.partition(":") for line in said.decode(errors="replace").splitlines() if line]
    levels = {name.strip(): value.strip() for name, _, value in pairs}
    if not levels.get("level"):
        raise InvalidMessage(f"the ztunnel of {node} tells no log level: is it another version? {said[:100]!r}")
    return levels


def _read(file: Path) -> Dump:
    try:
        return read_dump(file.read_bytes(), f"{file}:")
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from error
    except InvalidMessage as error:
        raise ConfigurationError(str(error)) from error


def _show(
    sections: Sequence[Section],
    asked: Ztunnels,
    file: Path | None,
    wanted: Callable[[Item], bool] = lambda _one: True,
) -> None:
    dumps = asked.dumps() if file is None else {asked.node or file.name: _read(file)}
    dumps = {
        name: {**dump, **{each.key: [one for one in each.items(dump) if wanted(one)] for each in sections}}
        for name, dump in dumps.items()
    }
    if asked.out is not OutputFormat.SHORT:
        output.print_value(plain(sections, dumps), asked.out)
        return
    for name, dump in dumps.items():
        for section in sections:
            if len(dumps) > 1 or len(sections) > 1:
                console.print(f"[bold cyan]{name}: {section.key}[/bold cyan]")
            output.print_table(section.columns, section.rows(dump))
            if len(dumps) > 1 or len(sections) > 1:
                console.print()


def plain(sections: Sequence[Section], dumps: dict[str, Dump]) -> Any:
    """What is printed for programs: the items, by section and by node where there are several of these."""

    def of_node(dump: Dump) -> Any:
        if len(sections) == 1:
            return sections[0].items(dump)
        return {section.key: section.items(dump) for section in sections}

    by_node = {name: of_node(dump) for name, dump in dumps.items()}
    return next(iter(by_node.values())) if len(by_node) == 1 else by_node

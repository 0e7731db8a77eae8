"""``istio.security.Authorization``: policies as bytes and as values of ``mesh.model``.

Here an unknown scope, action or kind of string match is an error: guessing a zero would turn a policy this reader does
not understand into an ALLOW for everything. The rejected policy stays missing, and a missing policy that a workload
refers to denies.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import TypeVar

from mesh.addresses import Cidr, IpBytes
from mesh.errors import InvalidMessage
from mesh.model.policy import (
    Clause,
    Match,
    Policy,
    PolicyAction,
    PolicyScope,
    Rule,
    ServiceAccountMatch,
    StringMatch,
    StringMatchKind,
)
from mesh.wire import authorization_pb2 as wire
from mesh.xds.wire_values import bounded, ip, number, packed_prefix, parse, port, prefix_length, required

EnumT = TypeVar("EnumT", bound=enum.IntEnum)

_STRING_FIELDS = ("namespaces", "not_namespaces", "principals", "not_principals")
_NETWORK_FIELDS = ("source_ips", "not_source_ips", "destination_ips", "not_destination_ips")
_PORT_FIELDS = ("destination_ports", "not_destination_ports")
_ACCOUNT_FIELDS = ("service_accounts", "not_service_accounts")


def encode_authorization(policy: Policy) -> bytes:
    """The resource's bytes; equal values give equal bytes, so that a hash of them is a version."""
    message = wire.Authorization(
        name=policy.name,
        namespace=policy.namespace,
        scope=number(policy.scope),
        action=number(policy.action),
        dry_run=policy.dry_run,
    )
    for rule in policy.rules:
        rule_message = message.rules.add()
        for clause in rule.clauses:
            clause_message = rule_message.clauses.add()
            for match in clause.matches:
                _fill_match(clause_message.matches.add(), match)
    return message.SerializeToString(deterministic=True)


def decode_authorization(payload: bytes) -> Policy:
    """Read one resource of type ``istio.security.Authorization``.

    Raises:
        InvalidMessage: names the field that is wrong.
    """
    message = parse(wire.Authorization, payload)
    name = required(message.name, "authorization.name")
    place = f"authorization {message.namespace[:128]}/{name[:256]}"
    return Policy(
        name=name,
        namespace=message.namespace,
        scope=_understood(PolicyScope, message.scope, f"{place}: scope"),
        action=_understood(PolicyAction, message.action, f"{place}: action"),
        dry_run=message.dry_run,
        rules=tuple(
            Rule(tuple(_read_clause(clause, place) for clause in bounded(rule.clauses, f"{place}: clauses")))
            for rule in bounded(message.rules, f"{place}: rules")
        ),
    )


def _understood(kind: type[EnumT], number: int, field: str) -> EnumT:
    try:
        return kind(number)
    except ValueError as error:
        raise InvalidMessage(f"{field}: {number} is not known to this version of the mesh") from error


def _read_clause(message: wire.Clause, place: str) -> Clause:
    return Clause(tuple(_read_match(match, place) for match in bounded(message.matches, f"{place}: matches")))


def _read_match(message: wire.Match, place: str) -> Match:
    return Match(
        namespaces=_read_strings(message.namespaces, f"{place}: namespaces"),
        not_namespaces=_read_strings(message.not_namespaces, f"{place}: not_namespaces"),
        principals=_read_strings(message.principals, f"{place}: principals"),
        not_principals=_read_strings(message.not_principals, f"{place}: not_principals"),
        source_ips=_read_networks(message.source_ips, f"{place}: source_ips"),
        not_source_ips=_read_networks(message.not_source_ips, f"{place}: not_source_ips"),
        destination_ips=_read_networks(message.destination_ips, f"{place}: destination_ips"),
        not_destination_ips=_read_networks(message.not_destination_ips, f"{place}: not_destination_ips"),
        destination_ports=_read_ports(message.destination_ports, f"{place}: destination_ports"),
        not_destination_ports=_read_ports(message.not_destination_ports, f"{place}: not_destination_ports"),
        service_accounts=_read_accounts(message.service_accounts, f"{place}: service_accounts"),
        not_service_accounts=_read_accounts(message.not_service_accounts, f"{place}: not_service_accounts"),
    )


def _fill_match(message: wire.Match, match: Match) -> None:
    for field in _STRING_FIELDS:
        for each in getattr(match, field):
            _fill_string(getattr(message, field).add(), each)
    for field in _NETWORK_FIELDS:
        for network in getattr(match, field):
            address, length = packed_prefix(network.ip, network.length)
            getattr(message, field).add(address=address, length=length)
    for field in _PORT_FIELDS:
        getattr(message, field).extend(getattr(match, field))
    for field in _ACCOUNT_FIELDS:
        for account in getattr(match, field):
            getattr(message, field).add(namespace=account.namespace, service_account=account.service_account)


def _fill_string(message: wire.StringMatch, value: StringMatch) -> None:
    match value.kind:
        case StringMatchKind.EXACT:
            message.exact = value.value
        case StringMatchKind.PREFIX:
            message.prefix = value.value
        case StringMatchKind.SUFFIX:
            message.suffix = value.value
        case StringMatchKind.PRESENCE:
            message.presence.SetInParent()


def _read_strings(messages: Iterable[wire.StringMatch], field: str) -> tuple[StringMatch, ...]:
    return tuple(_read_string(each, field) for each in bounded(tuple(messages), field))


def _read_string(message: wire.StringMatch, field: str) -> StringMatch:
    match message.WhichOneof("match_type"):
        case "exact":
            return StringMatch(StringMatchKind.EXACT, message.exact)
        case "prefix":
            return StringMatch(StringMatchKind.PREFIX, message.prefix)
        case "suffix":
            return StringMatch(StringMatchKind.SUFFIX, message.suffix)
        case "presence":
            return StringMatch(StringMatchKind.PRESENCE)
        case _:
            raise InvalidMessage(f"{field}: a string match of a kind not known to this version of the mesh")


def _read_networks(messages: Iterable[wire.Address], field: str) -> tuple[Cidr, ...]:
    return tuple(_read_network(each, field) for each in bounded(tuple(messages), field))


def _read_network(message: wire.Address, field: str) -> Cidr:
    address = ip(message.address, field)
    length = prefix_length(message.address, message.length, field)
    # Host bits are dropped, so that equal networks are equal values.
    kept = int.from_bytes(address, "big") >> (128 - length) << (128 - length)
    return Cidr(IpBytes(kept.to_bytes(16, "big")), length)


def _read_ports(numbers: Iterable[int], field: str) -> tuple[int, ...]:
    return tuple(port(number, field) for number in bounded(tuple(numbers), field))


def _read_accounts(messages: Iterable[wire.ServiceAccountMatch], field: str) -> tuple[ServiceAccountMatch, ...]:
    return tuple(
        ServiceAccountMatch(each.namespace, each.service_account) for each in bounded(tuple(messages), field)
    )

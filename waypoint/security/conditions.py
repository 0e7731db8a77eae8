"""Conditions of request policies, compiled to functions of a ``Subject``.

What is absent (a client without identity, a request without token or header) matches no value, and therefore every
inverted condition: as in ``mesh.rbac``, an ALLOW policy with nothing but negative conditions admits it.

Where a request's text is not one text, the reading decides that admits less. A header that occurs twice is one value
joined by commas (RFC 9110 section 5.3), but an application may look at either field. So where a match refuses (DENY, or
the exception of an ALLOW), any single field suffices as well; where it admits, only the joined value counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from mesh.cidr import contained_in
from mesh.errors import ConfigurationError
from mesh.model.request_policy import AddressAttribute, AddressCondition, Attribute, Condition, PortCondition
from waypoint.routing.redirect import split_authority
from waypoint.routing.text import TextTest, compile_any, encoded, header_value
from waypoint.security.subject import Subject

SubjectTest = Callable[[Subject], bool]


def compile_condition(condition: Condition, *, refusing: bool) -> SubjectTest:
    """A condition as a function.

    Args:
        condition: the model's.
        refusing: a match of the policy refuses the request (DENY), or asks somebody else (CUSTOM).

    Raises:
        ConfigurationError: a regular expression that is none.
    """
    test = _compile(condition, any_field=refusing is not condition.inverted)
    return _inverted(test) if condition.inverted else test


def compile_addresses(condition: AddressCondition) -> SubjectTest:
    """A condition about an address as a function."""
    contained = contained_in(condition.networks)
    match condition.attribute:
        case AddressAttribute.SOURCE:
            test: SubjectTest = lambda subject: contained(subject.peer.source)  # noqa: E731
        case AddressAttribute.REMOTE:
            test = lambda subject: contained(subject.remote)  # noqa: E731
        case AddressAttribute.DESTINATION:
            test = lambda subject: contained(subject.peer.destination)  # noqa: E731
    return _inverted(test) if condition.inverted else test


def compile_ports(condition: PortCondition) -> SubjectTest:
    """A condition about the port as a function."""
    ports = frozenset(condition.ports)
    if condition.inverted:
        return lambda subject: subject.peer.port not in ports
    return lambda subject: subject.peer.port in ports


def _inverted(test: SubjectTest) -> SubjectTest:
    return lambda subject: not test(subject)


def _compile(condition: Condition, *, any_field: bool) -> SubjectTest:
    attribute = condition.attribute
    if attribute is Attribute.HOST or (
        attribute is Attribute.HEADER and condition.name.lower() in ("host", ":authority")
    ):
        return _host(compile_any(tuple(replace(value, ignore_case=True) for value in condition.values)))
    test = compile_any(condition.values)
    if attribute is Attribute.HEADER:
        return _header(encoded(condition.name.lower()), test, any_field=any_field)
    if attribute is Attribute.CLAIM:
        return _claim(condition.name, test)
    return _plain(attribute, test)


def _host(test: TextTest) -> SubjectTest:
    def host(subject: Subject) -> bool:
        authority = subject.head.authority
        if test(authority):
            return True
        bare, port = split_authority(authority)
        bare = bare.removesuffix(b".")
        return (bool(port) or bare != authority) and test(bare)

    return host


def _header(name: bytes, test: TextTest, *, any_field: bool) -> SubjectTest:
    if name == b":method":
        return lambda subject: test(subject.head.method)
    if name == b":path":
        return lambda subject: test(subject.head.path)
    if not any_field:
        return lambda subject: test(header_value(subject.head.headers, name))

    def header(subject: Subject) -> bool:
        headers = subject.head.headers
        if test(header_value(headers, name)):
            return True
        return any(test(value) for key, value in headers if key == name)

    return header


def _claim(name: str, test: TextTest) -> SubjectTest:
    def claim(subject: Subject) -> bool:
        return subject.token is not None and any(map(test, subject.token.claim(name)))

    return claim


def _plain(attribute: Attribute, test: TextTest) -> SubjectTest:
    if attribute is Attribute.PRINCIPAL:
        return lambda subject: test(subject.peer.principal)
    if attribute is Attribute.NAMESPACE:
        return lambda subject: test(subject.peer.namespace)
    if attribute is Attribute.SERVICE_ACCOUNT:
        return lambda subject: test(subject.peer.account)
    if attribute is Attribute.TRUST_DOMAIN:
        return lambda subject: test(subject.peer.trust_domain)
    if attribute is Attribute.METHOD:
        return lambda subject: test(subject.head.method)
    if attribute is Attribute.PATH:
        return lambda subject: test(subject.path)
    if attribute is Attribute.SNI:
        return lambda subject: test(subject.server_name)
    if attribute is Attribute.AUDIENCE:
        return lambda subject: subject.token is not None and any(map(test, subject.token.audiences))
    if attribute is Attribute.REQUEST_PRINCIPAL:
        return lambda subject: test(None if subject.token is None else subject.token.principal)
    if attribute is Attribute.PRESENTER:
        return lambda subject: test(None if subject.token is None else subject.token.presenter)
    raise ConfigurationError(f"the attribute {attribute} cannot be compared here")

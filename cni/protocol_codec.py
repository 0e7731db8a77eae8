"""What the plugin sends, what it is answered, and the CNI objects inside (CNI specification 0.3 to 1.0).

The plugin relays its standard input and the ``CNI_*`` variables unread, so this is where they are checked. The answer
is one header line, the exit status and the length of what follows, then the CNI result or error the plugin prints.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from mesh.addresses import IpBytes, parse_ip
from mesh.errors import InvalidAddress, InvalidMessage

SUPPORTED_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0")
"""As the plugin itself answers to VERSION."""

MAXIMUM_REQUEST = 2 << 20
"""Bytes: a mebibyte of configuration, with room for its escapes."""

_ARGUMENT = re.compile(r"[A-Za-z0-9_]{1,64}")


class CniCode(enum.IntEnum):
    """Error codes of the CNI specification that are used here."""

    INCOMPATIBLE_VERSION = 1
    INVALID_ENVIRONMENT = 4
    DECODING_FAILED = 6
    INVALID_CONFIGURATION = 7
    TRY_AGAIN_LATER = 11
    INTERNAL = 100
    REFUSED = 101
    """The pod's network namespace is not what it is said to be."""


class CniFailure(Exception):
    """An answer that makes the container runtime give up or retry; not a MeshError, because it is a reply."""

    def __init__(self, code: CniCode, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


class Command(enum.Enum):
    """What the container runtime wants."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    VERSION = "VERSION"


_REQUIRED = {
    Command.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Command.VERSION: (),
}


class _Relayed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    environment: dict[str, str]
    configuration: str


class _Configuration(msgspec.Struct, frozen=True, rename="camel"):
    """The parts of the plugin's configuration that are read; a runtime adds others."""

    cni_version: str = "0.1.0"
    prev_result: msgspec.Raw = msgspec.Raw(b"null")


class _ResultIp(msgspec.Struct, frozen=True):
    address: str
    interface: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _ResultInterface(msgspec.Struct, frozen=True):
    name: str
    sandbox: str = ""


class _PreviousResult(msgspec.Struct, frozen=True):
    ips: list[_ResultIp] = []
    interfaces: list[_ResultInterface] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class PodArguments:
    """What kubelet says about the pod in ``CNI_ARGS``."""

    namespace: str
    name: str
    uid: str
    """Empty when the runtime does not give it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRequest:
    """One execution of the plugin."""

    command: Command
    version: str
    container_id: str
    netns: str
    """Path of the network namespace; may be empty for DEL."""
    interface: str
    pod: PodArguments | None
    """None for a container that Kubernetes did not make."""
    previous_result: bytes | None
    """The JSON the plugins before gave, as it came: it is our result too."""
    addresses: tuple[IpBytes, ...]
    """Of the previous result, those inside the pod."""


def decode_request(data: bytes) -> PluginRequest:
    """Read what the plugin relayed.

    Raises:
        CniFailure: with the code the specification gives for it.
    """
    try:
        relayed = msgspec.json.decode(data, type=_Relayed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CniFailure(CniCode.DECODING_FAILED, f"the plugin's request cannot be read: {error}") from error
    environment = relayed.environment
    try:
        command = Command(environment.get("CNI_COMMAND", ""))
    except ValueError as error:
        names = ", ".join(member.value for member in Command)
        raise CniFailure(CniCode.INVALID_ENVIRONMENT, f"CNI_COMMAND is none of {names}") from error
    for name in _REQUIRED[command]:
        if not environment.get(name):
            raise CniFailure(CniCode.INVALID_ENVIRONMENT, f"{name} is not set, which {command.value} needs")
    configuration = _configuration(relayed.configuration)
    if configuration.cni_version not in SUPPORTED_VERSIONS:
        raise CniFailure(
            CniCode.INCOMPATIBLE_VERSION,
            f"CNI version {configuration.cni_version[:32]!r} is not supported, only {', '.join(SUPPORTED_VERSIONS)}: "
            "set cniVersion of the network configuration accordingly",
        )
    previous = bytes(configuration.prev_result)
    return PluginRequest(
        command=command,
        version=configuration.cni_version,
        container_id=environment.get("CNI_CONTAINERID", ""),
        netns=environment.get("CNI_NETNS", ""),
        interface=environment.get("CNI_IFNAME", ""),
        pod=_pod(environment.get("CNI_ARGS", "")),
        previous_result=None if previous == b"null" else previous,
        addresses=_addresses(previous),
    )


def _configuration(text: str) -> _Configuration:
    try:
        return msgspec.json.decode(text, type=_Configuration)
    except msgspec.DecodeError as error:
        raise CniFailure(CniCode.DECODING_FAILED, f"the network configuration cannot be read: {error}") from error


def _pod(arguments: str) -> PodArguments | None:
    """``IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=client;...``."""
    values: dict[str, str] = {}
    for part in arguments.split(";"):
        name, separator, value = part.partition("=")
        if not part:
            continue
        if not separator or not _ARGUMENT.fullmatch(name):
            raise CniFailure(CniCode.INVALID_ENVIRONMENT, f"CNI_ARGS is no list of NAME=VALUE: {arguments[:200]!r}")
        values[name] = value
    namespace, name = values.get("K8S_POD_NAMESPACE", ""), values.get("K8S_POD_NAME", "")
    if not namespace and not name:
        return None
    if not namespace or not name:
        raise CniFailure(CniCode.INVALID_ENVIRONMENT, "CNI_ARGS gives only one of K8S_POD_NAMESPACE and K8S_POD_NAME")
    return PodArguments(namespace=namespace, name=name, uid=values.get("K8S_POD_UID", ""))


def _addresses(previous: bytes) -> tuple[IpBytes, ...]:
    """The addresses of interfaces inside the sandbox; a result without interfaces lists only such.

    That they are in the sandbox is not believed: it is verified before the pod is enrolled.
    """
    try:
        result = msgspec.json.decode(previous, type=_PreviousResult | None)
    except msgspec.DecodeError as error:
        raise CniFailure(CniCode.DECODING_FAILED, f"prevResult cannot be read: {error}") from error
    if result is None:
        return ()
    found = []
    for entry in result.ips:
        if entry.interface is not None and result.interfaces:
            if entry.interface >= len(result.interfaces):
                raise CniFailure(CniCode.DECODING_FAILED, f"prevResult lacks the interface {entry.interface} it names")
            if not result.interfaces[entry.interface].sandbox:
                continue  # on the node's side, such as a bridge's own address
        try:
            found.append(parse_ip(entry.address.partition("/")[0]))
        except InvalidAddress as error:
            raise CniFailure(CniCode.DECODING_FAILED, f"prevResult: {error}") from error
    return tuple(dict.fromkeys(found))


_HEADER = re.compile(rb"ambimesh-cni/1 ([01]) (\d{1,7})\n")


def encode_reply(exit_status: int, output: bytes) -> bytes:
    """The answer: what the plugin prints, and the status it exits with (0 or 1)."""
    return b"ambimesh-cni/1 %d %d\n" % (exit_status, len(output)) + output


def decode_reply(data: bytes) -> tuple[int, bytes]:
    """Exit status and output of an answer; what the plugin does in C, here for its tests and tools.

    Raises:
        InvalidMessage: not a whole answer.
    """
    header = _HEADER.match(data)
    if header is None or len(data) - header.end() != int(header[2]):
        raise InvalidMessage(f"not a whole reply to the CNI plugin: {data[:64]!r}")
    return int(header[1]), data[header.end() :]


def encode_failure(version: str, failure: CniFailure) -> bytes:
    """The CNI error object."""
    body: Mapping[str, object] = {
        "cniVersion": version if version in SUPPORTED_VERSIONS else SUPPORTED_VERSIONS[-1],
        "code": int(failure.code),
        "msg": failure.message,
        "details": failure.details,
    }
    return msgspec.json.encode(body)


def encode_versions(version: str) -> bytes:
    """The answer to VERSION."""
    return msgspec.json.encode({"cniVersion": version, "supportedVersions": list(SUPPORTED_VERSIONS)})

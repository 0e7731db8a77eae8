"""Enrolled pods: which network namespaces are captured, with what addresses and exclusions.

The kernel's maps and pinned links are the record; nothing is kept in this process. So an agent that starts finds what
the one before it did. A pod is captured inbound first (its link), outbound second (its entry in ``pods``), and freed in
the opposite order, so that at no moment does its traffic leave in clear while arrivals are still taken to ztunnel.
"""

from __future__ import annotations

import ctypes
import enum
from dataclasses import dataclass, field

from ebpf import syscall
from ebpf.attachment import POD_HOOK, closing, remove_pinned_link
from ebpf.layout import (
    DIRECTION_INBOUND,
    DIRECTION_OUTBOUND,
    NETWORK_AS_WRITTEN,
    NETWORK_OF_IPV6,
    POD_HAS_EXCLUDED_NETWORKS,
    POD_HAS_EXCLUDED_OUTBOUND_PORTS,
    POD_HAS_IPV4,
    POD_HAS_IPV6,
    POD_TAKES_ANY_SPLICE,
    POD_TAKES_NO_FAST_PATH,
    POD_TAKES_NO_SPLICE,
    Address,
    ExcludedNetwork,
    ExcludedPort,
    Pod,
    ip_field,
    read_ip,
)
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths, read_pod_link
from mesh.addresses import Cidr, IpBytes, is_ipv4
from mesh.closing import Closing
from mesh.errors import ConfigurationError, InvalidAddress
from mesh.netns import NetworkNamespace

_NO_IP = IpBytes(bytes(16))
_COOKIE_BITS = 64
_MAPPED_BITS = 96


@dataclass(frozen=True, slots=True)
class Exclusions:
    """What of a pod's traffic is left alone."""

    outbound_ports: frozenset[int] = frozenset()
    inbound_ports: frozenset[int] = frozenset()
    outbound_cidrs: frozenset[Cidr] = frozenset()


class FastPathUse(enum.Enum):
    """Whether connections within the node may go past ztunnel, once it has admitted the like of them."""

    AUTOMATIC = "automatic"
    """Yes, and the payload of sockets in non-blocking mode past TCP."""
    SPLICED = "spliced"
    """Yes, and all payload past TCP: only for applications that take EAGAIN from a blocking recv(2) for what it is, do
    not wait for all (MSG_WAITALL), and use neither urgent data nor splice(2) to read."""
    DIRECT = "direct"
    """Yes, on TCP."""
    DISABLED = "disabled"
    """No."""


@dataclass(frozen=True, slots=True)
class PodEntry:
    """One pod as the programs know it."""

    addresses: tuple[IpBytes, ...]
    """All its addresses; the first of each family is the source of its captured connections."""
    exclusions: Exclusions = field(default_factory=Exclusions)
    fast_path: FastPathUse = FastPathUse.AUTOMATIC
    """Both ends of a connection have a say."""


@dataclass(frozen=True, slots=True)
class EnrolledPod:
    """One pod as the kernel's state tells it."""

    cookie: int
    netns_inode: int
    """0 when the namespace is gone: only its entries are left, and ``unenrol`` removes them."""
    entry: PodEntry
    """The order of the addresses is not kept, but for the first of each family."""

    @property
    def alive(self) -> bool:
        """Whether the pod's namespace still exists."""
        return self.netns_inode != 0


class PodTable(Closing):
    """The enrolled pods of one node.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def __init__(self, paths: PinPaths) -> None:
        self._paths = paths
        self._pods = PinnedMap(paths, "pods", ctypes.c_uint64, Pod)
        self._addresses = PinnedMap(paths, "pod_addresses", Address, ctypes.c_uint64)
        self._ports = PinnedMap(paths, "excluded_ports", ExcludedPort, ctypes.c_uint32)
        self._networks = PinnedMap(paths, "excluded_nets", ExcludedNetwork, ctypes.c_uint32)

    def close(self) -> None:
        """Close the maps; nothing is un-enrolled by it."""
        for table in (self._pods, self._addresses, self._ports, self._networks):
            table.close()

    def enrol(self, cookie: int, entry: PodEntry, namespace: NetworkNamespace, uid: str) -> None:
        """Capture a pod, or bring a captured one to this entry. From its return, what has no ticket meets ztunnel.

        Args:
            cookie: the namespace's cookie (``namespace.cookie()``).
            entry: addresses and exclusions.
            namespace: the pod's.
            uid: names the pod in ``enrolled`` and ``unenrol``; enrolled with another namespace before, it is moved.

        Raises:
            InvalidAddress: no address, or a port or network that cannot be.
            ConfigurationError: the cookie is not the namespace's, or a map is full.
            EnvironmentLacks: not permitted.

        After an error a pod that was captured still is, with some of the new exclusions; another is not.
        """
        if namespace.cookie() != cookie:
            raise ConfigurationError(f"pod {uid}: the network namespace was replaced while the pod was being enrolled")
        _check(uid, entry)
        captured = (cookie, uid) in self._links()
        try:
            self._write_exclusions(cookie, entry.exclusions)
            self._write_addresses(cookie, entry.addresses)
            self._link(cookie, namespace, uid)
            self._pods.set(ctypes.c_uint64(cookie), _pod_value(entry))
        except BaseException:
            if not captured:
                self._remove(cookie, uid)
            raise
        for other, known in self._links():
            if known == uid and other != cookie:
                self._remove(other, uid)

    def unenrol(self, uid: str) -> None:
        """Free a pod: new connections of it and to it are plain. Nothing happens if it is not enrolled."""
        for cookie, known in self._links():
            if known == uid:
                self._remove(cookie, uid)

    def enrolled(self) -> dict[str, EnrolledPod]:
        """All enrolled pods, by uid, from the kernel's state."""
        addresses: dict[int, list[IpBytes]] = {}
        for address, owner in self._addresses.items():
            addresses.setdefault(owner.value, []).append(read_ip(address.ip))
        ports: dict[tuple[int, int], set[int]] = {}
        for port in self._ports:
            ports.setdefault((port.netns, port.direction), set()).add(port.port)
        networks: dict[int, set[Cidr]] = {}
        for network in self._networks:
            cidr = Cidr(read_ip(network.ip), network.prefix_length - _COOKIE_BITS)
            networks.setdefault(network.netns[0] | network.netns[1] << 32, set()).add(cidr)

        found: dict[str, EnrolledPod] = {}
        for cookie, uid in self._links():
            value = self._pods.get(ctypes.c_uint64(cookie))
            sources = {read_ip(value.ipv4), read_ip(value.ipv6)} if value is not None else set()
            entry = PodEntry(
                tuple(sorted(addresses.get(cookie, []), key=lambda ip: (ip not in sources, ip))),
                Exclusions(
                    outbound_ports=frozenset(ports.get((cookie, DIRECTION_OUTBOUND), ())),
                    inbound_ports=frozenset(ports.get((cookie, DIRECTION_INBOUND), ())),
                    outbound_cidrs=frozenset(networks.get(cookie, ())),
                ),
                FastPathUse.AUTOMATIC if value is None else _fast_path(value.flags),
            )
            with closing(syscall.require_pin(self._paths.pod_link(cookie, uid))) as link:
                found[uid] = EnrolledPod(cookie, syscall.link_info(link).netns_inode, entry)
        return found

    def _links(self) -> list[tuple[int, str]]:
        names = [read_pod_link(pin.name) for pin in self._paths.pods.iterdir()]
        return sorted(name for name in names if name is not None)

    def _link(self, cookie: int, namespace: NetworkNamespace, uid: str) -> None:
        pin = self._paths.pod_link(cookie, uid)
        existing = syscall.open_pin(pin)
        if existing is not None:  # the cookie is in its name, so it is this very namespace's
            with closing(existing):
                if syscall.link_info(existing).netns_inode == namespace.inode:
                    return
            pin.unlink()  # somebody detached it
        with closing(syscall.require_pin(self._paths.programs / POD_HOOK.function)) as program:
            link = syscall.create_link(program, namespace.fd, POD_HOOK.attach_type, f"{POD_HOOK.function} to pod {uid}")
        with closing(link):
            syscall.pin(link, pin)

    def _write_addresses(self, cookie: int, wanted: tuple[IpBytes, ...]) -> None:
        for ip in wanted:
            self._addresses.set(Address(ip_field(ip)), ctypes.c_uint64(cookie))
        for key, owner in list(self._addresses.items()):
            if owner.value == cookie and read_ip(key.ip) not in wanted:
                self._addresses.remove(key)

    def _write_exclusions(self, cookie: int, wanted: Exclusions) -> None:
        ports = {(DIRECTION_OUTBOUND, port) for port in wanted.outbound_ports}
        ports |= {(DIRECTION_INBOUND, port) for port in wanted.inbound_ports}
        for direction, port in ports:
            self._ports.set(ExcludedPort(cookie, port, direction, 0), ctypes.c_uint32(1))
        for port_key in list(self._ports):
            if port_key.netns == cookie and (port_key.direction, port_key.port) not in ports:
                self._ports.remove(port_key)
        for cidr in wanted.outbound_cidrs:
            kind = NETWORK_OF_IPV6 if cidr.length < _MAPPED_BITS else NETWORK_AS_WRITTEN
            self._networks.set(_network_key(cookie, cidr), ctypes.c_uint32(kind))
        low, high = _split(cookie)
        for key in list(self._networks):
            cidr = Cidr(read_ip(key.ip), key.prefix_length - _COOKIE_BITS)
            if (key.netns[0], key.netns[1]) == (low, high) and cidr not in wanted.outbound_cidrs:
                self._networks.remove(key)

    def _remove(self, cookie: int, uid: str) -> None:
        self._pods.remove(ctypes.c_uint64(cookie))
        remove_pinned_link(self._paths.pod_link(cookie, uid))
        self._write_addresses(cookie, ())
        self._write_exclusions(cookie, Exclusions())


def _check(uid: str, entry: PodEntry) -> None:
    if not entry.addresses:
        raise InvalidAddress(f"pod {uid} has no address yet: it cannot be captured")
    for port in entry.exclusions.outbound_ports | entry.exclusions.inbound_ports:
        if not 0 < port < 65536:
            raise InvalidAddress(f"pod {uid}: excluded port {port} is not a port of 1 to 65535")


def _pod_value(entry: PodEntry) -> Pod:
    ipv4 = next((ip for ip in entry.addresses if is_ipv4(ip)), None)
    ipv6 = next((ip for ip in entry.addresses if not is_ipv4(ip)), None)
    flags = 0
    if ipv4 is not None:
        flags |= POD_HAS_IPV4
    if ipv6 is not None:
        flags |= POD_HAS_IPV6
    if entry.exclusions.outbound_ports:
        flags |= POD_HAS_EXCLUDED_OUTBOUND_PORTS
    if entry.exclusions.outbound_cidrs:
        flags |= POD_HAS_EXCLUDED_NETWORKS
    if entry.fast_path is FastPathUse.DISABLED:
        flags |= POD_TAKES_NO_FAST_PATH
    elif entry.fast_path is FastPathUse.DIRECT:
        flags |= POD_TAKES_NO_SPLICE
    elif entry.fast_path is FastPathUse.SPLICED:
        flags |= POD_TAKES_ANY_SPLICE
    return Pod(ip_field(ipv4 or _NO_IP), ip_field(ipv6 or _NO_IP), flags)


def _fast_path(flags: int) -> FastPathUse:
    if flags & POD_TAKES_NO_FAST_PATH:
        return FastPathUse.DISABLED
    if flags & POD_TAKES_NO_SPLICE:
        return FastPathUse.DIRECT
    return FastPathUse.SPLICED if flags & POD_TAKES_ANY_SPLICE else FastPathUse.AUTOMATIC


def _split(cookie: int) -> tuple[int, int]:
    return cookie & 0xFFFFFFFF, cookie >> 32


def _network_key(cookie: int, cidr: Cidr) -> ExcludedNetwork:
    return ExcludedNetwork(_COOKIE_BITS + cidr.length, (ctypes.c_uint32 * 2)(*_split(cookie)), ip_field(cidr.ip))

"""Why the programs did what they did: the numbered list of ``programs/abi.h``, for counters and their labels."""

from __future__ import annotations

import enum


class Reason(enum.IntEnum):
    """One counter each. The names are the header's without ``REASON_``; a number is never used for something else."""

    OUTBOUND_CAPTURED = 1
    """A pod's connect(2) was redirected to ztunnel."""
    OUTBOUND_TO_ITSELF = 2
    """A pod dialled its own address and was left alone."""
    OUTBOUND_EXCLUDED_PORT = 3
    """Left alone: the pod excludes this outbound port."""
    OUTBOUND_EXCLUDED_NETWORK = 4
    """Left alone: the pod excludes this network."""
    OUTBOUND_SOURCE_KEPT = 5
    """Captured on a loopback source, shown as the pod's address: the application had bound its port."""
    OUTBOUND_REFUSED_NO_FAMILY = 6
    """ENETUNREACH: the pod has no address of the destination's family."""
    OUTBOUND_REFUSED_LINK_LOCAL = 7
    """ENETUNREACH: an IPv6 link-local destination names no workload; exclude fe80::/10 to let it out."""
    OUTBOUND_REFUSED_NO_MEMORY = 8
    """ENOMEM: the kernel had no memory for the socket's storage."""
    TICKET_DELIVERY = 9
    """A ticket for a delivery that ztunnel announced."""
    TICKET_PROBE = 10
    """A ticket for a connection of kubelet."""
    TICKET_ITSELF = 11
    """A ticket for a pod's connection to itself."""
    TICKET_RENEWED = 12
    """A ticket issued again because the SYN was sent again."""
    INBOUND_TICKET = 13
    """A SYN with a ticket went to the application."""
    INBOUND_HBONE = 14
    """A SYN to port 15008 went to ztunnel's HBONE listener."""
    INBOUND_PLAINTEXT = 15
    """A SYN without ticket went to ztunnel's plaintext listener."""
    INBOUND_EXCLUDED_PORT = 16
    """A SYN went to the application: the pod excludes this inbound port."""
    INBOUND_REFUSED_NO_LISTENER = 17
    """Reset: ztunnel has no listener for this pod (it is down, or has not taken the pod yet)."""
    INBOUND_REFUSED_FOREIGN_ADDRESS = 18
    """Reset: the destination is not an address of an enrolled pod."""
    INBOUND_REFUSED_ASSIGNMENT = 19
    """Reset: the kernel would not give the SYN to ztunnel's listener (an IPv4 listener for an IPv6 address)."""
    INBOUND_TICKET_EXPIRED = 20
    """A SYN came too late for its ticket and was treated as one without."""
    HANDOFF_MISSING = 21
    """Somebody in a pod dialled ztunnel's outbound port directly."""
    FAST_DIALLED = 22
    """A pod's connect(2) went to its destination itself, by a verdict."""
    FAST_STALE = 23
    """A verdict no longer held, or the destination's ztunnel was gone: the slow path."""
    FAST_NO_ROOM = 24
    """A map of the fast path was full: the slow path, or TCP."""
    FAST_SOURCE = 25
    """The application had chosen another source address or a device: the slow path."""
    FAST_SLOT_SLOW = 26
    """The endpoint drawn for a service has no verdict: ztunnel took the connection there."""
    FAST_SPLICED = 27
    """A fast connection proved to be worth it and both its ends were entered in the sockhash."""
    FAST_NOT_SPLICED = 28
    """A fast connection was worth it, but an end waits in the kernel or must not be entered: TCP for good."""
    FAST_FOREIGN_END = 29
    """The 4-tuple of a fast connection came up in another namespace than the verdict's; it gained nothing."""
    FAST_FELL_BACK = 30
    """A direction went over to TCP: its receiver's queue was full."""
    FAST_RETURNED = 31
    """A direction came back from TCP to the splice."""
    FAST_UNRECORDED = 32
    """A closed connection found no room in the table that ztunnel reads: its record is lost."""
    FAST_LEG_SPLICED = 33
    """The leg between an application and its ztunnel proved to be worth it, and both its ends were entered."""

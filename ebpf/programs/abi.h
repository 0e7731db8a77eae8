/*
 * The one header that the kernel programs and user space share: every key and value of a map, the numbers both sides
 * must agree on, and the numbered list of reasons. ebpf/layout.py mirrors the structs and ebpf/reasons.py the list; the
 * loader compares the mirror with what the compiler made of this file before it attaches anything.
 *
 * Rules: IP addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d, held as four words. Ports are in host
 * order. Padding is explicit and zero (it is part of hash keys). Any change of a struct, of a number's meaning or of a
 * map's type raises AMBIMESH_ABI_VERSION. Numbers of reasons are never used again for something else.
 */
#ifndef AMBIMESH_ABI_H
#define AMBIMESH_ABI_H

#define AMBIMESH_ABI_VERSION 1

/* ztunnel's listeners inside a pod. */
#define ZTUNNEL_OUTBOUND_PORT 15001
#define ZTUNNEL_HBONE_PORT 15008

/* How long a SYN may follow its ticket. A retransmission renews the ticket, so this covers one trip to the pod. */
#define TICKET_LIFETIME_NANOSECONDS 5000000000ULL

/* pod.flags */
#define POD_HAS_IPV4 1
#define POD_HAS_IPV6 2
#define POD_HAS_EXCLUDED_OUTBOUND_PORTS 4
#define POD_HAS_EXCLUDED_NETWORKS 8

/* excluded_port.direction */
#define DIRECTION_OUTBOUND 1
#define DIRECTION_INBOUND 2

/* Values of excluded_nets. In 16 bytes ::/0 holds every mapped IPv4 address too, but who writes it means IPv6. */
#define NETWORK_AS_WRITTEN 1
#define NETWORK_OF_IPV6 2

/* Values of the map caller_roles, whose key is a cgroup id. */
#define ROLE_ZTUNNEL 1
#define ROLE_KUBELET 2

/* listener_key.kind */
#define LISTENER_PLAINTEXT 1
#define LISTENER_HBONE 2
#define LISTENER_OUTBOUND 3 /* on the pod's loopback; keyed by the source of captured connections, the pod's address */

/* connection.kind: what connection.address means for this socket. */
#define CONNECTION_UNTOUCHED 0 /* nothing */
#define CONNECTION_CAPTURED 1  /* an application's socket redirected to ztunnel: the destination it dialled */
#define CONNECTION_HANDED 2    /* ztunnel's accepted end of such a socket: that same destination */
#define CONNECTION_DELIVERY 3  /* ztunnel's socket towards an application: the true client, announced by ztunnel */
#define CONNECTION_PROBE 4     /* kubelet's socket: nothing */
#define CONNECTION_ITSELF 5    /* a pod's socket to its own address: nothing */
#define CONNECTION_ACCEPTED 6  /* the application's accepted end of a delivery: the true client */

enum reason {
	REASON_OUTBOUND_CAPTURED = 1,
	REASON_OUTBOUND_TO_ITSELF = 2,
	REASON_OUTBOUND_EXCLUDED_PORT = 3,
	REASON_OUTBOUND_EXCLUDED_NETWORK = 4,
	REASON_OUTBOUND_SOURCE_KEPT = 5,       /* captured on a loopback source: the application had bound its port */
	REASON_OUTBOUND_REFUSED_NO_FAMILY = 6, /* the pod has no address of the destination's family */
	REASON_OUTBOUND_REFUSED_LINK_LOCAL = 7, /* fe80::/10 names a neighbour of one interface, not a workload */
	REASON_OUTBOUND_REFUSED_NO_MEMORY = 8,
	REASON_TICKET_DELIVERY = 9,
	REASON_TICKET_PROBE = 10,
	REASON_TICKET_ITSELF = 11,
	REASON_TICKET_RENEWED = 12,
	REASON_INBOUND_TICKET = 13,
	REASON_INBOUND_HBONE = 14,
	REASON_INBOUND_PLAINTEXT = 15,
	REASON_INBOUND_EXCLUDED_PORT = 16,
	REASON_INBOUND_REFUSED_NO_LISTENER = 17,
	REASON_INBOUND_REFUSED_FOREIGN_ADDRESS = 18,
	REASON_INBOUND_REFUSED_ASSIGNMENT = 19,
	REASON_INBOUND_TICKET_EXPIRED = 20, /* counted beside what then happened to the SYN */
	REASON_HANDOFF_MISSING = 21,        /* a connection to ztunnel's outbound port that no program redirected */
	REASON_LIMIT = 22,                  /* one more than the last */
};

struct address {
	__u32 ip[4];
};

struct socket_address {
	__u32 ip[4];
	__u16 port;
	__u16 zero;
};

/* pod_addresses: struct address -> network namespace cookie (__u64) of the enrolled pod that has it. */

/* pods: network namespace cookie -> pod. The addresses are the sources of captured connections. */
struct pod {
	__u32 ipv4[4];
	__u32 ipv6[4];
	__u32 flags;
};

/* excluded_ports: the value is unused. */
struct excluded_port {
	__u64 netns;
	__u16 port;
	__u16 direction;
	__u32 zero;
};

/* excluded_nets, a longest-prefix trie: 64 bits of cookie before the network. One shorter than ::ffff:0:0/96 is IPv6. */
struct excluded_network {
	__u32 prefix_length;
	__u32 netns[2];
	__u32 ip[4];
};

/* connections: storage of a socket, freed with it. */
struct connection {
	__u32 kind;
	struct socket_address address;
};

/* handoffs: from the application's SYN towards ztunnel until ztunnel's end is established. */
struct handoff_key {
	__u64 netns;
	struct socket_address source;
	__u32 zero;
};

/* tickets */
struct four_tuple {
	__u32 source_ip[4];
	__u32 destination_ip[4];
	__u16 source_port;
	__u16 destination_port;
};

struct ticket {
	__u64 issued_at; /* CLOCK_MONOTONIC, nanoseconds */
	__u32 has_client;
	struct socket_address client;
};

/* listeners: pod address and kind -> ztunnel's listening socket */
struct listener_key {
	__u32 ip[4];
	__u32 kind;
};

/* metadata, one element: written last by the loader, so its presence says that loading was complete. */
struct metadata {
	__u32 abi_version;
	__u32 zero;
	__u8 program_digest[32];
};

#endif

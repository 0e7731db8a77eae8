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

#define AMBIMESH_ABI_VERSION 6

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
#define POD_TAKES_NO_FAST_PATH 16
#define POD_TAKES_NO_SPLICE 32
#define POD_TAKES_ANY_SPLICE 64 /* sockets whose owners wait in the kernel, too; none of edges */

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

/* Most workers of one ztunnel. */
#define MAX_WORKERS 16

/* connection.kind: what connection.address means for this socket. */
#define CONNECTION_UNTOUCHED 0 /* nothing */
#define CONNECTION_CAPTURED 1  /* an application's socket redirected to ztunnel: the destination it dialled */
#define CONNECTION_HANDED 2    /* ztunnel's accepted end of such a socket: that same destination */
#define CONNECTION_DELIVERY 3  /* ztunnel's socket towards an application: the true client, announced by ztunnel */
#define CONNECTION_PROBE 4     /* kubelet's socket: nothing */
#define CONNECTION_ITSELF 5    /* a pod's socket to its own address: nothing */
#define CONNECTION_ACCEPTED 6  /* the application's accepted end of a delivery: the true client */
#define CONNECTION_FAST 7      /* an application's socket dialled directly, by a verdict: the destination it dialled */

/* fast_state.flags, written by ztunnel */
#define FAST_DIAL 1   /* verdicts are honoured */
#define FAST_SPLICE 2 /* payload goes past TCP */

#define FAST_SLOTS 64

/* fast_flow.mode */
#define FLOW_UNDECIDED 0 /* TCP until both ends are entered and what it carries is read */
#define FLOW_SPLICED 1
#define FLOW_TCP 2 /* for good */
#define FLOW_PAIRED 3 /* both ends were just entered: one more message by TCP, then undecided */

/* fast_connection.client_end and .server_end */
#define END_NEW 0
#define END_ESTABLISHED 1
#define END_CLOSED 2 /* after it was established */
#define END_FAILED 3 /* closed before it was established */

/* fast_connection.asked */
#define ASKED_NOT 0
#define ASKED_ENTRY 1  /* ztunnel has been asked to enter both ends */
#define ASKED_NEVER 2  /* an end must not be entered: on TCP for good */
#define ASKED_IN_VAIN 3 /* there was no room in the ring: again at the next round trip */

/* Data segments that an end has sent and received when its connection is worth entering: 32 short round trips. */
#define TALKATIVE_SEGMENTS 64
/* The same for the accepting end of a leg, which by then would have been entered if the dialling end talked, too. */
#define TALKATIVE_SEGMENTS_ACCEPTED 256
/*
 * Of bulk a leg is better left to TCP: who splices waits for the reader's lock as long as the reader copies, and ztunnel
 * reads half a megabyte at a time. A leg is not entered if its segments (on loopback up to 64 KiB, half of a window) have
 * on average more bytes than the first; once entered, a direction goes by TCP for good from a message of more than the
 * second on that finds the reader's queue empty.
 */
#define LEG_BULKY_SEGMENT 17408
#define LEG_BULKY_MESSAGE 17408

/* What mesh_enter returns. */
#define ENTRY_DONE 0
#define ENTRY_GONE 1     /* no such socket (any more) in this network namespace */
#define ENTRY_UNKNOWN 2  /* no end of a connection that the programs made, or another socket, or entered before */
#define ENTRY_WAITS 3    /* its owner waits in the kernel */
#define ENTRY_UNFIT 4    /* it needs what the splice cannot give, or its pod does not want it */
#define ENTRY_REFUSED 5  /* by the kernel: it is closing, or the map is full */
#define ENTRY_MALFORMED 6

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
	REASON_FAST_DIALLED = 22,
	REASON_FAST_STALE = 23,       /* a verdict of a past generation, or no ztunnel: the slow path */
	REASON_FAST_NO_ROOM = 24,     /* a map of the fast path is full: the slow path */
	REASON_FAST_SOURCE = 25,      /* the application chose a source or device: the slow path */
	REASON_FAST_SLOT_SLOW = 26,   /* the endpoint drawn for a service has no verdict: ztunnel takes it there */
	REASON_FAST_SPLICED = 27,     /* both ends are in the sockhash */
	REASON_FAST_NOT_SPLICED = 28, /* worth it, but an end must not be entered: on TCP for good */
	REASON_FAST_FOREIGN_END = 29, /* a fast ticket's 4-tuple came up in another namespace: nothing gained */
	REASON_FAST_FELL_BACK = 30,   /* the receiver's queue was full: TCP until it is read */
	REASON_FAST_RETURNED = 31,
	REASON_FAST_UNRECORDED = 32, /* the table of closed connections is full: ztunnel has been away for long */
	REASON_FAST_LEG_SPLICED = 33, /* an application's socket and ztunnel's, in the pod, are in the sockhash */
	REASON_LIMIT = 34,           /* one more than the last */
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
	struct socket_address chosen; /* CAPTURED and HANDED: the endpoint drawn for a service here; port 0: none */
	__u32 spliced; /* it is in the sockhash */
};

/* What ztunnel reads of a captured connection. */
struct handoff {
	struct socket_address destination;
	struct socket_address chosen;
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
	__u64 fast_client;      /* cookie of the dialling socket of a fast connection; 0: none */
	__u64 fast_destination; /* the namespace that the accepting socket must be in */
};

/* listeners: pod address, kind and worker -> the listening socket of one of ztunnel's workers */
struct listener_key {
	__u32 ip[4];
	__u32 kind;
	__u32 worker; /* 0 up to the number of workers */
};

/*
 * listener_turns, one element: ztunnel writes the number of its workers and, while one of them does better alone, which;
 * programs count turns.
 */
struct listener_turns {
	__u32 workers;
	__u32 preferred;
	__u32 turns[4]; /* by kind; element 0 is not used */
	__u64 preferred_until; /* CLOCK_MONOTONIC, nanoseconds; 0: nobody is */
};

/* fast_state, one element: written by ztunnel every second. */
struct fast_state {
	__u64 alive_until; /* CLOCK_MONOTONIC, nanoseconds */
	__u32 flags;
	__u32 queue_limit; /* bytes that may wait in a receiver's queue before a direction falls back to TCP */
};

/* fast_verdicts and fast_services: who dials, and what. */
struct fast_key {
	__u64 netns;
	__u32 ip[4];
	__u16 port;
	__u16 zero;
	__u32 also_zero;
};

struct fast_verdict {
	__u64 generation; /* valid while it is that of destination_netns in fast_generations */
	__u64 destination_netns;
};

/* Endpoints to draw from, each as often as its weight asks: four words of address, one of port. */
struct fast_service {
	__u32 count;
	__u32 zero;
	__u32 slots[FAST_SLOTS * 5];
};

/* fast_flows: socket cookie -> one direction of a fast connection, that which this socket sends. */
struct fast_flow {
	__u64 own;         /* the socket's address in the kernel */
	__u64 peer;        /* the other end's */
	__u64 peer_cookie; /* 0: not both ends are in the sockhash (yet) */
	__u64 connection;  /* key of fast_connections; 0: a leg between an application and its ztunnel */
	__u64 spliced;     /* bytes */
	__u64 tcp;         /* bytes, brought up to date when something is sent or the state changes */
	__u64 acked_before; /* the TCP counter's value when the connection was established */
	__u64 returned_at; /* value of spliced when it last returned to the splice */
	__u64 mark;        /* a value of spliced: once the reader has come to it, it moves to the newest */
	__u32 mode;
	__u32 is_client;
	__u32 entered; /* it is in the sockhash */
	__u32 waiting; /* its sender waits for the reader right now, with its own socket's lock held */
	__u32 rests;   /* messages for which it does not wait again, since it has waited in vain */
	__u32 messages; /* spliced since the mark */
	__u32 older_messages; /* between the mark before and this one: together, at least those that wait */
	__u32 zero;
};

/* fast_connections: cookie of the client's socket -> a live fast connection. fast_closed: the same, once it is over. */
struct fast_connection {
	__u64 source_netns;
	__u64 destination_netns;
	__u64 opened_at; /* CLOCK_MONOTONIC, nanoseconds */
	__u64 closed_at;
	__u64 server_cookie;
	__u64 sent;     /* bytes of the client, final when its end is closed */
	__u64 received; /* bytes of the server, likewise */
	struct socket_address source;
	struct socket_address destination;
	struct socket_address dialled; /* another than destination when a service was dialled */
	__u16 client_end;
	__u16 server_end;
	__u32 asked;
	__u32 zero;
};

/* fast_talkers, a ring buffer: connections that are worth entering. */
struct fast_talker {
	__u64 client; /* of a fast connection, the cookie of its client's socket; 0: a leg */
	__u64 netns;  /* of a leg, both ends'; else the client's */
	struct socket_address source;
	struct socket_address destination;
};

/*
 * What mesh_enter and mesh_enter_leg are given, after the 14 bytes that a link layer's header would have: one socket of
 * this namespace, or the dialling end of a leg in it.
 */
struct fast_entry {
	__u64 cookie; /* a leg: 0 */
	struct socket_address local;
	struct socket_address remote;
};

/* metadata.abilities */
#define ABILITY_SPLICE 1  /* sockets can be spliced, and what waits in them is accounted for */

/* metadata, one element: written last by the loader, so its presence says that loading was complete. */
struct metadata {
	__u32 abi_version;
	__u32 abilities; /* ABILITY_* that the self-test found */
	__u8 program_digest[32];
};

#endif

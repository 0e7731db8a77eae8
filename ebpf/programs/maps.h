/*
 * All maps of a node, pinned: whichever file is compiled first makes them, the others open the same ones.
 *
 * Configuration arrives as macros: PIN_DIRECTORY (with a slash at its end) and the SIZE_* of the maps.
 */
#ifndef AMBIMESH_MAPS_H
#define AMBIMESH_MAPS_H

#include "abi.h"

BPF_F_TABLE("hash:" PIN_DIRECTORY "pods", u64, struct pod, pods, SIZE_PODS, 0);
BPF_F_TABLE("hash:" PIN_DIRECTORY "pod_addresses", struct address, u64, pod_addresses, SIZE_POD_ADDRESSES, 0);
BPF_F_TABLE("hash:" PIN_DIRECTORY "excluded_ports", struct excluded_port, u32, excluded_ports, SIZE_EXCLUDED_PORTS, 0);
BPF_F_TABLE("lpm_trie:" PIN_DIRECTORY "excluded_nets", struct excluded_network, u32, excluded_nets,
	    SIZE_EXCLUDED_NETWORKS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" PIN_DIRECTORY "caller_roles", u64, u32, caller_roles, SIZE_CALLER_ROLES, 0);
BPF_F_TABLE("sk_storage:" PIN_DIRECTORY "connections", int, struct connection, connections, 0, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lru_hash:" PIN_DIRECTORY "handoffs", struct handoff_key, struct handoff, handoffs, SIZE_HANDOFFS, 0);
BPF_F_TABLE("lru_hash:" PIN_DIRECTORY "tickets", struct four_tuple, struct ticket, tickets, SIZE_TICKETS, 0);
BPF_F_TABLE("sockhash:" PIN_DIRECTORY "listeners", struct listener_key, u64, listeners, SIZE_LISTENERS, 0);
BPF_F_TABLE("array:" PIN_DIRECTORY "listener_turns", u32, struct listener_turns, listener_turns, 1, 0);
BPF_F_TABLE("array:" PIN_DIRECTORY "fast_state", u32, struct fast_state, fast_state, 1, 0);
BPF_F_TABLE("hash:" PIN_DIRECTORY "fast_generations", u64, u64, fast_generations, SIZE_PODS, 0);
BPF_F_TABLE("hash:" PIN_DIRECTORY "fast_verdicts", struct fast_key, struct fast_verdict, fast_verdicts,
	    SIZE_FAST_VERDICTS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" PIN_DIRECTORY "fast_services", struct fast_key, struct fast_service, fast_services,
	    SIZE_FAST_SERVICES, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" PIN_DIRECTORY "fast_connections", u64, struct fast_connection, fast_connections,
	    SIZE_FAST_CONNECTIONS, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" PIN_DIRECTORY "fast_closed", u64, struct fast_connection, fast_closed, SIZE_FAST_CLOSED,
	    BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash:" PIN_DIRECTORY "fast_flows", u64, struct fast_flow, fast_flows, SIZE_FAST_SOCKETS,
	    BPF_F_NO_PREALLOC);

/* bcc's own declaration of a sockhash cannot be pinned, its pinned tables lack these two methods. */
struct fast_sockets_table_t {
	u64 key;
	u64 leaf;
	int (*insert)(u64 *, u64 *); /* the value is a socket */
	int (*delete)(u64 *);
	int (*msg_redirect_hash)(void *, void *, u64);
	u32 max_entries;
	int flags;
};
__attribute__((section("maps/sockhash:" PIN_DIRECTORY "fast_sockets"))) struct fast_sockets_table_t fast_sockets = {
	.flags = 0, .max_entries = (SIZE_FAST_SOCKETS)};
BPF_ANNOTATE_KV_PAIR(fast_sockets, u64, u64);

/* The same for a ring buffer, which has no keys; its size is in bytes. */
struct fast_talkers_table_t {
	int key;
	struct fast_talker leaf;
	int (*ringbuf_output)(void *, u64, u64);
	u32 max_entries;
	int flags;
};
__attribute__((section("maps/ringbuf:" PIN_DIRECTORY "fast_talkers"))) struct fast_talkers_table_t fast_talkers = {
	.flags = 0, .max_entries = SIZE_FAST_TALKERS};

BPF_F_TABLE("percpu_array:" PIN_DIRECTORY "counters", u32, u64, counters, REASON_LIMIT, 0);
BPF_F_TABLE("array:" PIN_DIRECTORY "metadata", u32, struct metadata, metadata, 1, 0);

#endif

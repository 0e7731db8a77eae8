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
BPF_F_TABLE("lru_hash:" PIN_DIRECTORY "handoffs", struct handoff_key, struct socket_address, handoffs, SIZE_HANDOFFS, 0);
BPF_F_TABLE("lru_hash:" PIN_DIRECTORY "tickets", struct four_tuple, struct ticket, tickets, SIZE_TICKETS, 0);
BPF_F_TABLE("sockhash:" PIN_DIRECTORY "listeners", struct listener_key, u64, listeners, SIZE_LISTENERS, 0);
BPF_F_TABLE("percpu_array:" PIN_DIRECTORY "counters", u32, u64, counters, REASON_LIMIT, 0);
BPF_F_TABLE("array:" PIN_DIRECTORY "metadata", u32, struct metadata, metadata, 1, 0);

#endif

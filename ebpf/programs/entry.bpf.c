/*
 * Enters an end of a fast connection in the sockhash, from where splice.bpf.c judges what it sends.
 *
 * A socket that is established already can be entered only by a program that looks it up itself, so this one is attached
 * nowhere: ztunnel runs it (BPF_PROG_TEST_RUN) from inside the pod's network namespace, in which the look-up is made. It
 * believes nothing of what it is given. The socket must be an end that the programs themselves have kept count of since
 * it was established, by its cookie and its address in the kernel, and its owner must not wait in the kernel.
 *
 * Nothing is spliced before both ends are entered, and then only when TCP has nothing unread.
 */
#include <uapi/linux/bpf.h>
#include <linux/fcntl.h>
#include <linux/if_ether.h>

#include "abi.h"
#include "addresses.h"
#include "maps.h"
#include "owners.h"

static void *(*to_tcp_sock)(void *) = (void *)BPF_FUNC_skc_to_tcp_sock;

static __always_inline void count(u32 reason)
{
	u64 *counter = counters.lookup(&reason);
	if (counter)
		*counter += 1;
}

/* The socket of this namespace that has these two addresses: looked up as if the other end had sent a segment. */
static __always_inline struct bpf_sock *find(struct __sk_buff *skb, const struct fast_entry *entry)
{
	struct bpf_sock_tuple tuple = {};
	if (is_mapped(entry->local.ip)) {
		tuple.ipv4.saddr = entry->remote.ip[3];
		tuple.ipv4.daddr = entry->local.ip[3];
		tuple.ipv4.sport = bpf_htons(entry->remote.port);
		tuple.ipv4.dport = bpf_htons(entry->local.port);
		return bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	}
	copy_ip(tuple.ipv6.saddr, entry->remote.ip);
	copy_ip(tuple.ipv6.daddr, entry->local.ip);
	tuple.ipv6.sport = bpf_htons(entry->remote.port);
	tuple.ipv6.dport = bpf_htons(entry->local.port);
	return bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
}

/* Both ends are entered: from now on either direction may take to the splice. */
static __always_inline void pair(u64 cookie, struct fast_flow *flow, const struct fast_connection *live)
{
	u64 other = flow->is_client ? live->server_cookie : flow->connection;
	struct fast_flow *peer = fast_flows.lookup(&other);
	if (!peer || !peer->entered)
		return;
	flow->mode = FLOW_PAIRED;
	peer->mode = FLOW_PAIRED;
	flow->peer_cookie = other;
	peer->peer_cookie = cookie;
	count(REASON_FAST_SPLICED);
}

static __always_inline int enter(struct bpf_sock *sk, u64 cookie)
{
	void *tcp = to_tcp_sock(sk);
	struct fast_flow *flow = fast_flows.lookup(&cookie);
	if (!tcp || !flow || flow->entered || flow->own != (u64)tcp || *(volatile u64 *)(tcp + OFFSET_COOKIE) != cookie)
		return ENTRY_UNKNOWN;
	u64 client = flow->connection;
	struct fast_connection *live = fast_connections.lookup(&client);
	if (!live)
		return ENTRY_UNKNOWN;
	u64 netns = flow->is_client ? live->source_netns : live->destination_netns;
	struct pod *pod = pods.lookup(&netns);
	if (!pod || (pod->flags & (POD_TAKES_NO_FAST_PATH | POD_TAKES_NO_SPLICE)))
		return ENTRY_UNFIT;
	if (owner_of(tcp) != OWNER_POLLS && !(pod->flags & POD_TAKES_ANY_SPLICE))
		return ENTRY_WAITS;
	/* First the note that keeps setsockopt(2) from asking for what the splice cannot give, then whether it did. */
	struct connection *connection = connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection)
		return ENTRY_REFUSED;
	u32 kind = connection->kind;
	connection->kind = flow->is_client ? CONNECTION_SPLICED : CONNECTION_SPLICED_ACCEPTED;
	unsigned long flags = *(volatile unsigned long *)(tcp + OFFSET_FLAGS);
	if (flags & (1UL << FLAG_ZEROCOPY)) {
		connection->kind = kind;
		return ENTRY_UNFIT;
	}
	int error = fast_sockets.insert(&cookie, (u64 *)sk);
	if (error) {
		connection->kind = kind;
		return ENTRY_REFUSED;
	}
	flow->entered = 1;
	pair(cookie, flow, live);
	return ENTRY_DONE;
}

int mesh_enter(struct __sk_buff *skb)
{
	struct fast_entry entry = {};
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &entry, sizeof(entry)))
		return ENTRY_MALFORMED;
	struct bpf_sock *sk = find(skb, &entry);
	if (!sk)
		return ENTRY_GONE;
	int outcome = enter(sk, entry.cookie);
	bpf_sk_release(sk);
	return outcome;
}

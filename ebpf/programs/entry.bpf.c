/*
 * Enters an end of a fast connection in the sockhash, from where splice.bpf.c judges what it sends; or both ends of a leg,
 * that is, of a connection between an application and its ztunnel inside the pod.
 *
 * A socket that is established already can be entered only by a program that looks it up itself, so this one is attached
 * nowhere: ztunnel runs it (BPF_PROG_TEST_RUN) from inside the pod's network namespace, in which the look-up is made. It
 * believes nothing of what it is given. The socket must be an end that the programs themselves have kept count of since
 * it was established, by its cookie and its address in the kernel, and its owner must neither wait in the kernel nor be
 * told of edges (owners.h). Of a leg one end must be an application's and the other ztunnel's, by what the programs have
 * noted with the sockets; ztunnel's own calls never wait, and its epoll set is one of levels.
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

/*
 * Enters a socket whose flow is there: first the note that keeps setsockopt(2) from asking for what the splice cannot
 * give, then a look whether it did already, then the map.
 */
static __always_inline int insert(struct bpf_sock *sk, void *tcp, u64 cookie)
{
	struct connection *connection = connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!connection)
		return ENTRY_REFUSED;
	connection->spliced = 1;
	int outcome = ENTRY_DONE;
	unsigned long flags = *(volatile unsigned long *)(tcp + OFFSET_FLAGS);
	if (flags & (1UL << FLAG_ZEROCOPY)) {
		outcome = ENTRY_UNFIT;
	} else {
		int error = fast_sockets.insert(&cookie, (u64 *)sk);
		if (error)
			outcome = ENTRY_REFUSED;
	}
	if (outcome != ENTRY_DONE)
		connection->spliced = 0;
	return outcome;
}

/* Whether a pod's socket may be entered. */
static __always_inline int permitted(u64 netns, void *tcp)
{
	struct pod *pod = pods.lookup(&netns);
	if (!pod || (pod->flags & (POD_TAKES_NO_FAST_PATH | POD_TAKES_NO_SPLICE)))
		return ENTRY_UNFIT;
	int owner = owner_of(tcp);
	if (owner == OWNER_EDGES)
		return ENTRY_UNFIT;
	if (owner == OWNER_WAITS && (pod->flags & POD_TAKES_ANY_SPLICE))
		return ENTRY_DONE;
	return owner == OWNER_POLLS ? ENTRY_DONE : ENTRY_WAITS;
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
	int outcome = permitted(flow->is_client ? live->source_netns : live->destination_netns, tcp);
	if (outcome == ENTRY_DONE)
		outcome = insert(sk, tcp, cookie);
	if (outcome == ENTRY_DONE) {
		flow->entered = 1;
		pair(cookie, flow, live);
	}
	return outcome;
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

/* Not every kernel has a helper for it here. */
static __always_inline u64 netns_of(void *tcp)
{
	u64 net = 0, cookie = 0;
	bpf_probe_read_kernel(&net, sizeof(net), tcp + OFFSET_NET);
	bpf_probe_read_kernel(&cookie, sizeof(cookie), (void *)(net + OFFSET_NET_COOKIE));
	return cookie;
}

/* Both ends of a leg, or neither. */
static __always_inline int enter_leg(struct bpf_sock *dialled, struct bpf_sock *accepted)
{
	struct connection *from = connections.sk_storage_get(dialled, 0, 0);
	struct connection *to = connections.sk_storage_get(accepted, 0, 0);
	void *dialled_tcp = to_tcp_sock(dialled), *accepted_tcp = to_tcp_sock(accepted);
	if (!from || !to || !dialled_tcp || !accepted_tcp)
		return ENTRY_UNKNOWN;
	bool outbound = from->kind == CONNECTION_CAPTURED && to->kind == CONNECTION_HANDED;
	if (!outbound && !(from->kind == CONNECTION_DELIVERY && to->kind == CONNECTION_ACCEPTED))
		return ENTRY_UNKNOWN;
	if (from->spliced || to->spliced)
		return ENTRY_UNKNOWN;
	int outcome = permitted(netns_of(dialled_tcp), outbound ? dialled_tcp : accepted_tcp);
	if (outcome != ENTRY_DONE)
		return outcome;
	u64 dialled_cookie = *(volatile u64 *)(dialled_tcp + OFFSET_COOKIE);
	u64 accepted_cookie = *(volatile u64 *)(accepted_tcp + OFFSET_COOKIE);
	if (!dialled_cookie || !accepted_cookie)
		return ENTRY_UNKNOWN;
	struct fast_flow flow = {.mode = FLOW_PAIRED, .entered = 1};
	flow.own = (u64)dialled_tcp;
	flow.peer = (u64)accepted_tcp;
	flow.peer_cookie = accepted_cookie;
	flow.is_client = 1;
	struct fast_flow back = {.mode = FLOW_PAIRED, .entered = 1};
	back.own = (u64)accepted_tcp;
	back.peer = (u64)dialled_tcp;
	back.peer_cookie = dialled_cookie;
	outcome = insert(dialled, dialled_tcp, dialled_cookie);
	if (outcome != ENTRY_DONE)
		return outcome;
	outcome = insert(accepted, accepted_tcp, accepted_cookie);
	if (outcome == ENTRY_DONE) {
		int error = fast_flows.update(&dialled_cookie, &flow) || fast_flows.update(&accepted_cookie, &back);
		/* When an end closes, its flow is looked for; this one may have closed just before. */
		if (!error && dialled->state != BPF_TCP_CLOSE && accepted->state != BPF_TCP_CLOSE) {
			count(REASON_FAST_LEG_SPLICED);
			return ENTRY_DONE;
		}
		outcome = ENTRY_REFUSED;
		fast_flows.delete(&dialled_cookie);
		fast_flows.delete(&accepted_cookie);
		fast_sockets.delete(&accepted_cookie);
	}
	fast_sockets.delete(&dialled_cookie);
	return outcome;
}

int mesh_enter_leg(struct __sk_buff *skb)
{
	struct fast_entry entry = {};
	if (bpf_skb_load_bytes(skb, ETH_HLEN, &entry, sizeof(entry)))
		return ENTRY_MALFORMED;
	struct fast_entry other = {.local = entry.remote, .remote = entry.local};
	struct bpf_sock *dialled = find(skb, &entry);
	if (!dialled)
		return ENTRY_GONE;
	int outcome = ENTRY_GONE;
	struct bpf_sock *accepted = find(skb, &other);
	if (accepted) {
		outcome = enter_leg(dialled, accepted);
		bpf_sk_release(accepted);
	}
	bpf_sk_release(dialled);
	return outcome;
}

/*
 * What arrives at an enrolled pod: a SYN with a ticket goes to the application, everything else to one of ztunnel's
 * listeners in that pod, or is refused.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <linux/socket.h>
#include <linux/errno.h>

#include "abi.h"
#include "addresses.h"
#include "maps.h"

static __always_inline void count(u32 reason)
{
	u64 *counter = counters.lookup(&reason);
	if (counter)
		*counter += 1;
}

static __always_inline bool is_excluded_port(u64 netns, u16 port, u16 direction)
{
	struct excluded_port key = {.netns = netns, .port = port, .direction = direction};
	return excluded_ports.lookup(&key) != NULL;
}

static __always_inline int refuse(u32 reason)
{
	count(reason);
	return SK_DROP; /* the client gets a reset */
}

/* Whose turn it is. Two CPUs may count one turn as the same: it evens out, and an atomic operation would cost more. */
static __always_inline u32 next_worker(u32 kind)
{
	u32 first = 0;
	struct listener_turns *turns = listener_turns.lookup(&first);
	if (!turns || turns->workers < 2)
		return 0;
	/* Of what applications dial only: tunnels last, so they are always divided. */
	if (turns->preferred_until && kind == LISTENER_OUTBOUND && bpf_ktime_get_ns() < turns->preferred_until)
		return turns->preferred & (MAX_WORKERS - 1);
	return turns->turns[kind & 3]++ % turns->workers;
}

/*
 * To a socket of ztunnel's, its workers taking turns; a worker that has died has no socket here, and the next one takes
 * its turn. It is this very socket: a process of the pod that listens beside it with SO_REUSEPORT gets no share.
 * Returns a negative number if there is none.
 */
static __always_inline long assign(struct bpf_sk_lookup *ctx, struct listener_key *key)
{
	key->worker = next_worker(key->kind);
	struct bpf_sock *listener = (struct bpf_sock *)listeners.lookup(key);
	for (int tried = 0; !listener && tried < MAX_WORKERS; tried++) {
		key->worker = (key->worker + 1) % MAX_WORKERS;
		listener = (struct bpf_sock *)listeners.lookup(key);
	}
	if (!listener)
		return -ENOENT;
	long error = bpf_sk_assign(ctx, listener, BPF_SK_LOOKUP_F_NO_REUSEPORT);
	bpf_sk_release(listener);
	return error;
}

/* Runs in an enrolled pod's namespace for every TCP segment that no connection claims, so mostly SYNs. */
int mesh_sk_lookup(struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	struct four_tuple tuple = {.source_port = bpf_ntohs(ctx->remote_port), .destination_port = ctx->local_port};
	if (ctx->family == AF_INET) {
		map_ipv4(tuple.source_ip, ctx->remote_ip4);
		map_ipv4(tuple.destination_ip, ctx->local_ip4);
	} else {
		tuple.source_ip[0] = ctx->remote_ip6[0];
		tuple.source_ip[1] = ctx->remote_ip6[1];
		tuple.source_ip[2] = ctx->remote_ip6[2];
		tuple.source_ip[3] = ctx->remote_ip6[3];
		tuple.destination_ip[0] = ctx->local_ip6[0];
		tuple.destination_ip[1] = ctx->local_ip6[1];
		tuple.destination_ip[2] = ctx->local_ip6[2];
		tuple.destination_ip[3] = ctx->local_ip6[3];
	}
	struct listener_key key = {};
	if (is_loopback(tuple.destination_ip)) { /* never comes from outside: such a packet is a martian */
		if (tuple.destination_port == ZTUNNEL_OUTBOUND_PORT) {
			key.kind = LISTENER_OUTBOUND;
			copy_ip(key.ip, tuple.source_ip);
			assign(ctx, &key); /* else as usual: who dialled the port itself meets whoever listens */
		}
		return SK_PASS;
	}

	struct ticket *ticket = tickets.lookup(&tuple);
	if (ticket) {
		if (bpf_ktime_get_ns() - ticket->issued_at < TICKET_LIFETIME_NANOSECONDS) {
			count(REASON_INBOUND_TICKET);
			return SK_PASS;
		}
		count(REASON_INBOUND_TICKET_EXPIRED);
	}

	/* No helper tells the namespace here, so the pod is known by its address. */
	struct address address;
	copy_ip(address.ip, tuple.destination_ip);
	u64 *netns = pod_addresses.lookup(&address);
	if (!netns)
		return refuse(REASON_INBOUND_REFUSED_FOREIGN_ADDRESS);

	key.kind = LISTENER_PLAINTEXT;
	copy_ip(key.ip, tuple.destination_ip);
	if (tuple.destination_port == ZTUNNEL_HBONE_PORT) {
		key.kind = LISTENER_HBONE;
	} else if (is_excluded_port(*netns, tuple.destination_port, DIRECTION_INBOUND)) {
		count(REASON_INBOUND_EXCLUDED_PORT);
		return SK_PASS;
	}
	long error = assign(ctx, &key);
	if (error)
		return refuse(error == -ENOENT ? REASON_INBOUND_REFUSED_NO_LISTENER : REASON_INBOUND_REFUSED_ASSIGNMENT);
	count(key.kind == LISTENER_HBONE ? REASON_INBOUND_HBONE : REASON_INBOUND_PLAINTEXT);
	return SK_PASS;
}

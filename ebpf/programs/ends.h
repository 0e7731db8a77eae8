/* A socket as a sock_ops program finds it: its two ends, what it brings along, what it has given to TCP. */
#ifndef AMBIMESH_ENDS_H
#define AMBIMESH_ENDS_H

#include "pacing.h"

static __always_inline void read_local(struct bpf_sock_ops *ctx, struct socket_address *local)
{
	if (ctx->family == AF_INET) {
		map_ipv4(local->ip, ctx->local_ip4);
	} else {
		local->ip[0] = ctx->local_ip6[0];
		local->ip[1] = ctx->local_ip6[1];
		local->ip[2] = ctx->local_ip6[2];
		local->ip[3] = ctx->local_ip6[3];
	}
	local->port = ctx->local_port;
}

static __always_inline void read_remote(struct bpf_sock_ops *ctx, struct socket_address *remote)
{
	if (ctx->family == AF_INET) {
		map_ipv4(remote->ip, ctx->remote_ip4);
	} else {
		remote->ip[0] = ctx->remote_ip6[0];
		remote->ip[1] = ctx->remote_ip6[1];
		remote->ip[2] = ctx->remote_ip6[2];
		remote->ip[3] = ctx->remote_ip6[3];
	}
	remote->port = bpf_ntohl(ctx->remote_port);
}

static __always_inline void make_tuple(struct four_tuple *tuple, const struct socket_address *source,
				       const struct socket_address *destination)
{
	copy_ip(tuple->source_ip, source->ip);
	copy_ip(tuple->destination_ip, destination->ip);
	tuple->source_port = source->port;
	tuple->destination_port = destination->port;
}

/* Whether this end's SYN has to bring a ticket. */
static __always_inline bool needs_ticket(const struct connection *connection)
{
	return connection->kind == CONNECTION_DELIVERY || connection->kind == CONNECTION_PROBE ||
	       connection->kind == CONNECTION_ITSELF || connection->kind == CONNECTION_FAST;
}

/* Whether this end is one of an application and its ztunnel. */
static __always_inline bool is_leg(const struct connection *connection)
{
	return connection->kind == CONNECTION_CAPTURED || connection->kind == CONNECTION_HANDED ||
	       connection->kind == CONNECTION_DELIVERY || connection->kind == CONNECTION_ACCEPTED;
}

static void *(*to_tcp_sock)(void *) = (void *)BPF_FUNC_skc_to_tcp_sock;

/* Bytes that this socket has given to TCP so far; ``acked_before`` is not subtracted. */
static __always_inline u64 given_to_tcp(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	void *tcp = to_tcp_sock(sk);
	if (!tcp)
		return ctx->bytes_acked;
	u32 written = *(volatile u32 *)(tcp + OFFSET_WRITE_SEQ);
	return ctx->bytes_acked + (u32)(written - ctx->snd_una);
}

static __always_inline void watch(struct bpf_sock_ops *ctx, u32 events)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | events);
}

static __always_inline void stop_watching(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_RTT_CB_FLAG);
}

/* bcc declares it with 32 bits. */
static u64 (*socket_cookie)(void *) = (void *)BPF_FUNC_get_socket_cookie;

/* An end of a leg: it is watched, and not paced. Its cookie is made now: the kernel makes one when it is first asked for it. */
static __always_inline void begin_leg(struct bpf_sock_ops *ctx)
{
	stop_pacing(ctx);
	if (socket_cookie(ctx))
		watch(ctx, BPF_SOCK_OPS_RTT_CB_FLAG);
}

#endif

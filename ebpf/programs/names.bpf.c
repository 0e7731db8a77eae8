/*
 * What getpeername(2), accept(2) and getsockname(2) show: applications see the destination they dialled and the true
 * client, as if ztunnel were not between them. ztunnel's own sockets keep their true peers.
 */
#include <uapi/linux/bpf.h>
#include <linux/socket.h>

#include "abi.h"
#include "addresses.h"
#include "maps.h"

/* The address an application is to see as its peer instead of ztunnel's, if any. */
static __always_inline struct socket_address *shown_peer(struct connection *connection)
{
	if (connection->kind != CONNECTION_CAPTURED && connection->kind != CONNECTION_ACCEPTED &&
	    connection->kind != CONNECTION_FAST)
		return NULL;
	return &connection->address;
}

/*
 * An application that bound only its port before it dialled sits, once captured, on a loopback address. It and ztunnel
 * are to see the pod's address in its place. Writes the address to show; false if there is nothing to change.
 */
static __always_inline bool shown_source(struct bpf_sock_addr *ctx, u32 *ip)
{
	if (!is_loopback(ip))
		return false;
	u64 netns = bpf_get_netns_cookie(ctx);
	struct pod *pod = pods.lookup(&netns);
	if (!pod)
		return false;
	bool mapped = is_mapped(ip);
	if (!(pod->flags & (mapped ? POD_HAS_IPV4 : POD_HAS_IPV6)))
		return false;
	copy_ip(ip, mapped ? pod->ipv4 : pod->ipv6);
	return true;
}

static __always_inline void show4(struct bpf_sock_addr *ctx, struct bpf_sock *sk, bool peer)
{
	struct connection *connection = connections.sk_storage_get(sk, 0, 0);
	if (!connection)
		return;
	if (connection->kind == (peer ? CONNECTION_HANDED : CONNECTION_CAPTURED)) {
		u32 ip[4];
		map_ipv4(ip, ctx->user_ip4);
		if (shown_source(ctx, ip))
			ctx->user_ip4 = ip[3];
		return;
	}
	struct socket_address *shown = peer ? shown_peer(connection) : NULL;
	if (!shown || !is_mapped(shown->ip))
		return;
	ctx->user_ip4 = shown->ip[3];
	ctx->user_port = bpf_htons(shown->port);
}

static __always_inline void show6(struct bpf_sock_addr *ctx, struct bpf_sock *sk, bool peer)
{
	struct connection *connection = connections.sk_storage_get(sk, 0, 0);
	if (!connection)
		return;
	u32 ip[4];
	if (connection->kind == (peer ? CONNECTION_HANDED : CONNECTION_CAPTURED)) {
		ip[0] = ctx->user_ip6[0];
		ip[1] = ctx->user_ip6[1];
		ip[2] = ctx->user_ip6[2];
		ip[3] = ctx->user_ip6[3];
		if (!shown_source(ctx, ip))
			return;
	} else {
		struct socket_address *shown = peer ? shown_peer(connection) : NULL;
		if (!shown)
			return;
		copy_ip(ip, shown->ip);
		ctx->user_port = bpf_htons(shown->port);
	}
	ctx->user_ip6[0] = ip[0];
	ctx->user_ip6[1] = ip[1];
	ctx->user_ip6[2] = ip[2];
	ctx->user_ip6[3] = ip[3];
}

int mesh_peername4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (sk)
		show4(ctx, sk, true);
	return 1;
}

int mesh_peername6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (sk)
		show6(ctx, sk, true);
	return 1;
}

int mesh_sockname4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (sk)
		show4(ctx, sk, false);
	return 1;
}

int mesh_sockname6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (sk)
		show6(ctx, sk, false);
	return 1;
}

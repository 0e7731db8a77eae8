/*
 * What happens to connections that processes under the node's cgroup make and accept.
 *
 * An enrolled pod's connect(2) is turned towards ztunnel's listener on the pod's loopback; what it had dialled follows
 * the SYN by the map handoffs (sock_ops) and ends as storage of ztunnel's accepted socket. Connections whose maker the
 * kernel knows (ztunnel's announced deliveries, kubelet's, a pod's to itself) get tickets for arrivals.bpf.c.
 *
 * bcc rewrites map methods only in the main file and outside macros, so whatever touches a map stands here, not in a
 * header.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
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

static __always_inline bool is_address_of(const u32 *ip, u64 netns)
{
	struct address key;
	copy_ip(key.ip, ip);
	u64 *owner = pod_addresses.lookup(&key);
	return owner && *owner == netns;
}

static __always_inline bool is_excluded_port(u64 netns, u16 port, u16 direction)
{
	struct excluded_port key = {.netns = netns, .port = port, .direction = direction};
	return excluded_ports.lookup(&key) != NULL;
}

static __always_inline bool is_in_excluded_network(u64 netns, const u32 *ip)
{
	struct excluded_network key = {.prefix_length = 64 + 128, .netns = {(u32)netns, (u32)(netns >> 32)}};
	copy_ip(key.ip, ip);
	u32 *kind = excluded_nets.lookup(&key);
	/* IPv4 networks are the longer ones, so for an IPv4 address they are found first. */
	return kind && !(*kind == NETWORK_OF_IPV6 && is_mapped(ip));
}

/* -- connect(2) --------------------------------------------------------------------------------------------------- */

enum verdict { LEAVE, CAPTURE, REFUSE };

/*
 * What to do with a connect(2) to this destination, and what sock_ops has to know of the socket once its SYN is made.
 */
static __always_inline int decide(struct bpf_sock_addr *ctx, const struct socket_address *to, u64 netns,
				  struct pod *pod, u32 *kind)
{
	if (is_loopback(to->ip))
		return LEAVE;
	if (is_unspecified(to->ip) || is_address_of(to->ip, netns)) {
		*kind = CONNECTION_ITSELF;
		count(REASON_OUTBOUND_TO_ITSELF);
		return LEAVE;
	}
	if (is_multicast(to->ip)) /* the kernel refuses it for TCP by itself */
		return LEAVE;
	if ((pod->flags & POD_HAS_EXCLUDED_OUTBOUND_PORTS) && is_excluded_port(netns, to->port, DIRECTION_OUTBOUND)) {
		count(REASON_OUTBOUND_EXCLUDED_PORT);
		return LEAVE;
	}
	if ((pod->flags & POD_HAS_EXCLUDED_NETWORKS) && is_in_excluded_network(netns, to->ip)) {
		count(REASON_OUTBOUND_EXCLUDED_NETWORK);
		return LEAVE;
	}
	if (is_ipv6_link_local(to->ip)) {
		count(REASON_OUTBOUND_REFUSED_LINK_LOCAL);
		bpf_set_retval(-ENETUNREACH);
		return REFUSE;
	}
	if (!(pod->flags & (is_mapped(to->ip) ? POD_HAS_IPV4 : POD_HAS_IPV6))) {
		/* Captured, it would seem to connect, and a client with two families would never try the other. */
		count(REASON_OUTBOUND_REFUSED_NO_FAMILY);
		bpf_set_retval(-ENETUNREACH);
		return REFUSE;
	}
	*kind = CONNECTION_CAPTURED;
	return CAPTURE;
}

/* The whole of connect(2) but the two things that differ by family: binding the source and writing the destination. */
static __always_inline int examine(struct bpf_sock_addr *ctx, struct bpf_sock *sk, const struct socket_address *to,
				   struct pod **pod)
{
	u64 caller = bpf_get_current_cgroup_id();
	u32 *role = caller_roles.lookup(&caller);
	if (role && *role == ROLE_ZTUNNEL)
		return LEAVE; /* with what ztunnel announced for this socket */

	u64 netns = bpf_get_netns_cookie(ctx);
	u32 kind = CONNECTION_UNTOUCHED;
	int verdict = LEAVE;
	*pod = pods.lookup(&netns);
	if (role && *role == ROLE_KUBELET)
		kind = CONNECTION_PROBE;
	else if (*pod)
		verdict = decide(ctx, to, netns, *pod, &kind);

	u64 create = kind == CONNECTION_UNTOUCHED ? 0 : BPF_SK_STORAGE_GET_F_CREATE;
	struct connection *connection = connections.sk_storage_get(sk, 0, create);
	if (connection) {
		connection->kind = kind; /* also forgets an earlier, failed connect of this socket */
		connection->address = *to;
	} else if (create) {
		count(REASON_OUTBOUND_REFUSED_NO_MEMORY);
		bpf_set_retval(-ENOMEM);
		return REFUSE;
	}
	if (verdict == CAPTURE) {
		count(REASON_OUTBOUND_CAPTURED);
		if (sk->bound_dev_if) {
			/* The way to loopback is not through the device that the application asked for. */
			int any_device = 0;
			bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTOIFINDEX, &any_device, sizeof(any_device));
		}
	}
	return verdict;
}

int mesh_connect4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (ctx->protocol != IPPROTO_TCP || !sk)
		return 1;
	struct socket_address to = {.port = bpf_ntohs(ctx->user_port)};
	map_ipv4(to.ip, ctx->user_ip4);
	struct pod *pod = NULL;
	int verdict = examine(ctx, sk, &to, &pod);
	if (verdict == LEAVE)
		return 1;
	if (verdict == REFUSE || !pod)
		return 0;
	if (sk->src_ip4 == 0) {
		struct sockaddr_in source = {.sin_family = AF_INET};
		source.sin_addr.s_addr = pod->ipv4[3];
		if (bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source)))
			count(REASON_OUTBOUND_SOURCE_KEPT);
	}
	ctx->user_ip4 = LOOPBACK_IPV4;
	ctx->user_port = bpf_htons(ZTUNNEL_OUTBOUND_PORT);
	return 1;
}

int mesh_connect6(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (ctx->protocol != IPPROTO_TCP || !sk)
		return 1;
	struct socket_address to = {.port = bpf_ntohs(ctx->user_port)};
	to.ip[0] = ctx->user_ip6[0];
	to.ip[1] = ctx->user_ip6[1];
	to.ip[2] = ctx->user_ip6[2];
	to.ip[3] = ctx->user_ip6[3];
	struct pod *pod = NULL;
	int verdict = examine(ctx, sk, &to, &pod);
	if (verdict == LEAVE)
		return 1;
	if (verdict == REFUSE || !pod)
		return 0;
	bool mapped = is_mapped(to.ip);
	if ((sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3]) == 0) {
		struct sockaddr_in6 source = {.sin6_family = AF_INET6};
		copy_ip(source.sin6_addr.s6_addr32, mapped ? pod->ipv4 : pod->ipv6);
		if (bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source)))
			count(REASON_OUTBOUND_SOURCE_KEPT);
	}
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = mapped ? MAPPED_PREFIX : 0;
	ctx->user_ip6[3] = mapped ? LOOPBACK_IPV4 : bpf_htonl(1);
	ctx->user_port = bpf_htons(ZTUNNEL_OUTBOUND_PORT);
	return 1;
}

/* -- sock_ops ------------------------------------------------------------------------------------------------------- */

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

static __always_inline void issue_ticket(struct four_tuple *tuple, const struct connection *connection)
{
	struct ticket ticket = {.issued_at = bpf_ktime_get_ns()};
	if (connection->kind == CONNECTION_DELIVERY) {
		ticket.has_client = 1;
		ticket.client = connection->address;
	}
	tickets.update(tuple, &ticket);
}

static __always_inline bool needs_ticket(const struct connection *connection)
{
	return connection->kind == CONNECTION_DELIVERY || connection->kind == CONNECTION_PROBE ||
	       connection->kind == CONNECTION_ITSELF;
}

/* The source address and port are chosen and the SYN is about to leave. */
static __always_inline void before_syn(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct connection *connection = connections.sk_storage_get(sk, 0, 0);
	if (!connection)
		return;
	struct socket_address local = {}, remote = {};
	read_local(ctx, &local);
	read_remote(ctx, &remote);
	if (connection->kind == CONNECTION_CAPTURED) {
		struct handoff_key key = {.netns = bpf_get_netns_cookie(ctx), .source = local};
		struct socket_address destination = connection->address;
		handoffs.update(&key, &destination);
		return;
	}
	if (!needs_ticket(connection))
		return;
	struct four_tuple tuple = {};
	make_tuple(&tuple, &local, &remote);
	issue_ticket(&tuple, connection);
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTO_CB_FLAG);
	if (connection->kind == CONNECTION_DELIVERY)
		count(REASON_TICKET_DELIVERY);
	else
		count(connection->kind == CONNECTION_PROBE ? REASON_TICKET_PROBE : REASON_TICKET_ITSELF);
}

/*
 * A segment is about to leave again. While the accepting end is not established its ticket is still there, even if this
 * end is established already: with SYN cookies the other side keeps nothing until it takes an ACK or data.
 */
static __always_inline void before_retransmission(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct connection *connection = connections.sk_storage_get(sk, 0, 0);
	if (!connection || !needs_ticket(connection))
		return;
	struct socket_address local = {}, remote = {};
	struct four_tuple tuple = {};
	read_local(ctx, &local);
	read_remote(ctx, &remote);
	make_tuple(&tuple, &local, &remote);
	struct ticket *ticket = tickets.lookup(&tuple);
	if (ticket)
		ticket->issued_at = bpf_ktime_get_ns();
	else if (ctx->state == BPF_TCP_SYN_SENT)
		issue_ticket(&tuple, connection);
	else
		return;
	count(REASON_TICKET_RENEWED);
}

/* The accepting end is established: what was waiting for it becomes storage of the socket, or ends. */
static __always_inline void on_accepted(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct socket_address local = {}, remote = {};
	struct connection *connection;
	read_local(ctx, &local);
	read_remote(ctx, &remote);

	if (local.port == ZTUNNEL_OUTBOUND_PORT && is_loopback(local.ip)) {
		struct handoff_key key = {.netns = bpf_get_netns_cookie(ctx), .source = remote};
		struct socket_address *destination = handoffs.lookup(&key);
		if (!destination) {
			count(REASON_HANDOFF_MISSING);
			return;
		}
		connection = connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (connection) {
			connection->kind = CONNECTION_HANDED;
			connection->address = *destination;
		}
		handoffs.delete(&key);
		return;
	}

	struct four_tuple tuple = {};
	make_tuple(&tuple, &remote, &local);
	struct ticket *ticket = tickets.lookup(&tuple);
	if (!ticket)
		return;
	if (ticket->has_client) {
		connection = connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (connection) {
			connection->kind = CONNECTION_ACCEPTED;
			connection->address = ticket->client;
		}
	}
	tickets.delete(&tuple);
}

/* Always 1: a 0 would void what another program of the cgroup replied. */
int mesh_sock_ops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		before_syn(ctx, sk);
		break;
	case BPF_SOCK_OPS_RTO_CB:
		before_retransmission(ctx, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_accepted(ctx, sk);
		break;
	}
	return 1;
}

/*
 * connect(2) of processes under the node's cgroup: left alone, turned towards ztunnel, dialled directly, or, of ztunnel
 * towards an application, given its source.
 *
 * An enrolled pod's connect(2) is turned towards ztunnel's listener on the pod's loopback; what it had dialled follows
 * the SYN by the map handoffs (connections.bpf.c). If ztunnel has admitted the like of it before and left a verdict, the
 * application's socket goes to the destination itself: the fast path. Whatever is in doubt there takes the slow path.
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

/* bcc declares it with 32 bits. */
static u64 (*socket_cookie)(void *) = (void *)BPF_FUNC_get_socket_cookie;

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

enum verdict { LEAVE, CAPTURE, REFUSE, DIAL_FAST, DELIVER };

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

/* -- the fast path -------------------------------------------------------------------------------------------------- */

/* Whether a verdict holds now. Returns the destination's namespace, 0 if it does not. */
static __always_inline u64 admitted(struct fast_key *key)
{
	struct fast_verdict *verdict = fast_verdicts.lookup(key);
	if (!verdict)
		return 0;
	u64 destination = verdict->destination_netns;
	u64 *generation = fast_generations.lookup(&destination);
	struct pod *pod = pods.lookup(&destination);
	if (!generation || *generation != verdict->generation || !pod || (pod->flags & POD_TAKES_NO_FAST_PATH)) {
		count(REASON_FAST_STALE);
		return 0;
	}
	/* A listener vanishes with its ztunnel, at once; the heartbeat below tells of one that hangs. */
	struct listener_key listener_key = {.kind = LISTENER_PLAINTEXT};
	copy_ip(listener_key.ip, key->ip);
	struct bpf_sock *listener = (struct bpf_sock *)listeners.lookup(&listener_key);
	if (!listener) {
		count(REASON_FAST_STALE);
		return 0;
	}
	bpf_sk_release(listener);
	return destination;
}

/* Draws an endpoint of a service. False if this is none that the fast path knows. */
static __always_inline bool draw(struct fast_key *key, struct socket_address *endpoint)
{
	struct fast_service *service = fast_services.lookup(key);
	if (!service)
		return false;
	u32 size = service->count;
	if (size == 0 || size > FAST_SLOTS)
		return false;
	u64 slot = (u64)bpf_get_prandom_u32() * size >> 32; /* less than size */
	asm volatile("" : "+r"(slot));
	slot &= FAST_SLOTS - 1; /* for the verifier */
	u32 *words = &service->slots[slot * 5];
	copy_ip(endpoint->ip, words);
	endpoint->port = words[4];
	return true;
}

/* The pod's address of a family is this socket's source, or can be made so by binding. */
static __always_inline bool has_plain_source(struct bpf_sock *sk, const u32 *source, const struct pod *pod, bool mapped)
{
	if (sk->bound_dev_if)
		return false;
	if (is_unspecified(source))
		return true;
	const u32 *own = mapped ? pod->ipv4 : pod->ipv6;
	return source[0] == own[0] && source[1] == own[1] && source[2] == own[2] && source[3] == own[3];
}

/*
 * Tries to dial a captured connection's destination directly. Writes the address to dial into *to and returns true, with
 * the connection entered in the table of live ones; or false, with the endpoint to be handed to ztunnel, if one was drawn.
 */
static __always_inline bool try_fast(struct bpf_sock_addr *ctx, struct bpf_sock *sk, const u32 *source, u64 netns,
				     const struct pod *pod, struct connection *connection, struct socket_address *to)
{
	u32 zero = 0;
	struct fast_state *state = fast_state.lookup(&zero);
	if (pod->flags & POD_TAKES_NO_FAST_PATH)
		return false;
	if (!state || !(state->flags & FAST_DIAL) || bpf_ktime_get_ns() >= state->alive_until)
		return false;
	struct fast_key key = {.netns = netns, .port = to->port};
	copy_ip(key.ip, to->ip);
	bool mapped = is_mapped(to->ip);
	struct socket_address endpoint = *to;
	u64 destination = admitted(&key);
	if (!destination) {
		if (!draw(&key, &endpoint))
			return false;
		connection->chosen = endpoint;
		key.port = endpoint.port;
		copy_ip(key.ip, endpoint.ip);
		destination = admitted(&key);
		if (!destination || is_mapped(endpoint.ip) != mapped) {
			count(REASON_FAST_SLOT_SLOW);
			return false;
		}
	}
	if (destination == netns)
		return false;
	if (!has_plain_source(sk, source, pod, mapped)) {
		count(REASON_FAST_SOURCE);
		return false;
	}
	u64 cookie = socket_cookie(ctx);
	struct fast_connection live = {
		.source_netns = netns, .destination_netns = destination, .opened_at = bpf_ktime_get_ns()};
	live.destination = endpoint;
	live.dialled = *to;
	copy_ip(live.source.ip, mapped ? pod->ipv4 : pod->ipv6);
	if (fast_connections.update(&cookie, &live)) {
		count(REASON_FAST_NO_ROOM);
		return false;
	}
	*to = endpoint;
	return true;
}

/* The whole of connect(2) but the two things that differ by family: binding the source and writing the destination. */
static __always_inline int examine(struct bpf_sock_addr *ctx, struct bpf_sock *sk, struct socket_address *to,
				   const u32 *source, struct pod **pod)
{
	u64 caller = bpf_get_current_cgroup_id();
	u32 *role = caller_roles.lookup(&caller);
	if (role && *role == ROLE_ZTUNNEL) {
		/* With what ztunnel announced for this socket; bound already if it was dialled before. */
		struct connection *announced = connections.sk_storage_get(sk, 0, 0);
		bool delivers = announced && announced->kind == CONNECTION_DELIVERY;
		return delivers && is_unspecified(source) ? DELIVER : LEAVE;
	}

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
		connection->chosen = (struct socket_address){};
		connection->spliced = 0;
		if (verdict == CAPTURE && *pod && try_fast(ctx, sk, source, netns, *pod, connection, to)) {
			connection->kind = CONNECTION_FAST;
			count(REASON_FAST_DIALLED);
			return DIAL_FAST;
		}
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

/*
 * A delivery has a loopback address as its source, so that the application's answers come back to it and nowhere else.
 * IPv4's are many: each has ephemeral ports of its own, so that sockets in TIME_WAIT after a burst of short connections
 * do not make the kernel search for a free one. They are 127.16.0.6 to 127.19.63.6, out of the way of 127.0.0.1.
 */
static __always_inline u32 delivery_source(void)
{
	u32 drawn = bpf_get_prandom_u32();
	return bpf_htonl(0x7f100006 | (drawn & 0x3) << 16 | (drawn & 0x3f00));
}

/* What connect(2) is told of a delivery whose source could not be bound. */
static __always_inline int without_source(void)
{
	bpf_set_retval(-EADDRNOTAVAIL);
	return 0;
}

int mesh_connect4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (ctx->protocol != IPPROTO_TCP || !sk)
		return 1;
	struct socket_address to = {.port = bpf_ntohs(ctx->user_port)};
	map_ipv4(to.ip, ctx->user_ip4);
	struct pod *pod = NULL;
	u32 bound[4];
	map_ipv4(bound, sk->src_ip4);
	int verdict = examine(ctx, sk, &to, bound, &pod);
	if (verdict == LEAVE)
		return 1;
	if (verdict == DELIVER) {
		struct sockaddr_in source = {.sin_family = AF_INET};
		source.sin_addr.s_addr = delivery_source();
		return bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source)) ? without_source() : 1;
	}
	if (verdict == REFUSE || !pod)
		return 0;
	if (sk->src_ip4 == 0) {
		struct sockaddr_in source = {.sin_family = AF_INET};
		source.sin_addr.s_addr = pod->ipv4[3];
		if (bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source)))
			count(REASON_OUTBOUND_SOURCE_KEPT);
	}
	if (verdict == DIAL_FAST) {
		ctx->user_ip4 = to.ip[3];
		ctx->user_port = bpf_htons(to.port);
		return 1;
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
	u32 bound[4] = {sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]};
	int verdict = examine(ctx, sk, &to, bound, &pod);
	if (verdict == LEAVE)
		return 1;
	if (verdict == DELIVER) {
		struct sockaddr_in6 source = {.sin6_family = AF_INET6};
		source.sin6_addr.s6_addr32[3] = bpf_htonl(1);
		return bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source)) ? without_source() : 1;
	}
	if (verdict == REFUSE || !pod)
		return 0;
	bool mapped = is_mapped(to.ip);
	if ((bound[0] | bound[1] | bound[2] | bound[3]) == 0) {
		struct sockaddr_in6 source = {.sin6_family = AF_INET6};
		copy_ip(source.sin6_addr.s6_addr32, mapped ? pod->ipv4 : pod->ipv6);
		if (bpf_bind(ctx, (struct sockaddr *)&source, sizeof(source)))
			count(REASON_OUTBOUND_SOURCE_KEPT);
	}
	if (verdict == DIAL_FAST) {
		ctx->user_ip6[0] = to.ip[0];
		ctx->user_ip6[1] = to.ip[1];
		ctx->user_ip6[2] = to.ip[2];
		ctx->user_ip6[3] = to.ip[3];
		ctx->user_port = bpf_htons(to.port);
		return 1;
	}
	ctx->user_ip6[0] = 0;
	ctx->user_ip6[1] = 0;
	ctx->user_ip6[2] = mapped ? MAPPED_PREFIX : 0;
	ctx->user_ip6[3] = mapped ? LOOPBACK_IPV4 : bpf_htonl(1);
	ctx->user_port = bpf_htons(ZTUNNEL_OUTBOUND_PORT);
	return 1;
}

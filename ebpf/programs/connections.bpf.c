/*
 * What becomes of connections once their SYN is made: what dialling.bpf.c has decided about a socket is carried to the
 * other end.
 *
 * A captured connection's destination follows the SYN by the map handoffs and ends as storage of ztunnel's accepted
 * socket. Connections whose maker the kernel knows (ztunnel's announced deliveries, kubelet's, a pod's to itself, those
 * with a verdict) get tickets for arrivals.bpf.c. Of a fast connection both ends are entered in the sockhash and kept
 * count of until both are closed.
 *
 * bcc rewrites map methods only in the main file and outside macros, so whatever touches a map stands here, not in a
 * header.
 */
#include <uapi/linux/bpf.h>
#include <linux/fcntl.h>
#include <linux/socket.h>

#include "abi.h"
#include "addresses.h"
#include "ends.h"
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

static __always_inline void issue_ticket(struct bpf_sock_ops *ctx, struct four_tuple *tuple,
					 const struct connection *connection)
{
	struct ticket ticket = {.issued_at = bpf_ktime_get_ns()};
	if (connection->kind == CONNECTION_DELIVERY) {
		ticket.has_client = 1;
		ticket.client = connection->address;
	} else if (connection->kind == CONNECTION_FAST) {
		u64 cookie = socket_cookie(ctx);
		struct fast_connection *live = fast_connections.lookup(&cookie);
		struct socket_address source = {.port = tuple->source_port};
		copy_ip(source.ip, tuple->source_ip);
		if (!live || !is_address_of(source.ip, live->source_netns))
			return; /* without a ticket, it meets ztunnel as plaintext */
		live->source = source;
		ticket.fast_client = cookie;
		ticket.fast_destination = live->destination_netns;
	}
	tickets.update(tuple, &ticket);
}

static __always_inline bool needs_ticket(const struct connection *connection)
{
	return connection->kind == CONNECTION_DELIVERY || connection->kind == CONNECTION_PROBE ||
	       connection->kind == CONNECTION_ITSELF || connection->kind == CONNECTION_FAST;
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
		struct handoff handoff = {.destination = connection->address, .chosen = connection->chosen};
		handoffs.update(&key, &handoff);
		return;
	}
	if (!needs_ticket(connection))
		return;
	struct four_tuple tuple = {};
	make_tuple(&tuple, &local, &remote);
	issue_ticket(ctx, &tuple, connection);
	u32 events = BPF_SOCK_OPS_RTO_CB_FLAG;
	if (connection->kind == CONNECTION_FAST)
		events |= BPF_SOCK_OPS_STATE_CB_FLAG;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | events);
	if (connection->kind == CONNECTION_FAST)
		return;
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
		issue_ticket(ctx, &tuple, connection);
	else
		return;
	count(REASON_TICKET_RENEWED);
}

/*
 * -- the ends of fast connections ------------------------------------------------------------------------------------
 *
 * Only sockets whose owners never wait in the kernel are spliced: of a socket in a sockhash a blocking recv(2) may end
 * with EAGAIN whenever it is woken without data (a signal, the other side's ACK of a FIN, room to write), and may not
 * wait for all. When a socket has to be entered, an accepted one has no owner yet and a dialled one may be made blocking
 * as soon as it is connected. So both are known by what earlier ones turned out to be, once data had been acknowledged
 * or the state changed; the first fast connection of a pod to a server stays on TCP.
 */

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

/* How a socket's owner waits: with O_NONBLOCK or not; 0 if it has no owner (yet, or any more). */
static __always_inline u32 habit_of(void *tcp)
{
	u64 owner = 0, file = 0;
	u32 flags = 0;
	bpf_probe_read_kernel(&owner, sizeof(owner), tcp + OFFSET_SOCKET);
	if (owner)
		bpf_probe_read_kernel(&file, sizeof(file), (void *)(owner + OFFSET_SOCKET_FILE));
	if (!file || bpf_probe_read_kernel(&flags, sizeof(flags), (void *)(file + OFFSET_FILE_FLAGS)))
		return 0;
	return flags & O_NONBLOCK ? HABIT_NONBLOCKING : HABIT_BLOCKING;
}

static __always_inline void make_habit_key(struct fast_key *key, bool accepts,
					   const struct fast_connection *live)
{
	key->netns = accepts ? live->destination_netns : live->source_netns;
	copy_ip(key->ip, live->destination.ip);
	key->port = live->destination.port;
	key->accepts = accepts;
}

static __always_inline u32 known_habit(bool accepts, const struct fast_connection *live)
{
	struct fast_key key = {};
	make_habit_key(&key, accepts, live);
	struct pod *pod = pods.lookup(&key.netns);
	if (pod && (pod->flags & POD_TAKES_ANY_SPLICE))
		return HABIT_NONBLOCKING;
	u32 *known = fast_habits.lookup(&key);
	return known ? *known : 0;
}

/* Remembers how an end of a fast connection waits. */
static __always_inline void learn(struct bpf_sock_ops *ctx, struct bpf_sock *sk, u64 cookie)
{
	struct fast_flow *flow = fast_flows.lookup(&cookie);
	void *tcp = to_tcp_sock(sk);
	u32 habit = tcp ? habit_of(tcp) : 0;
	if (!habit || !flow)
		return;
	u64 client = flow->connection;
	struct fast_connection *live = fast_connections.lookup(&client);
	if (!live)
		return;
	struct fast_key key = {};
	make_habit_key(&key, !flow->is_client, live);
	u32 *known = fast_habits.lookup(&key);
	if (!known || (*known != habit && *known != HABIT_BLOCKING))
		fast_habits.update(&key, &habit);
	/* Once is enough for a connection. */
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~BPF_SOCK_OPS_RTT_CB_FLAG);
}

static __always_inline bool takes_splice(u64 netns)
{
	struct pod *pod = pods.lookup(&netns);
	return pod && !(pod->flags & POD_TAKES_NO_SPLICE);
}

/* Enters one end: its flow, and if payload may be spliced, the socket. Returns the flow. */
static __always_inline struct fast_flow *enter(struct bpf_sock_ops *ctx, struct bpf_sock *sk, u64 cookie, u64 client,
					       const struct fast_connection *live)
{
	u32 zero = 0;
	struct fast_state *state = fast_state.lookup(&zero);
	void *tcp = to_tcp_sock(sk);
	if (!state || !tcp)
		return NULL;
	struct fast_flow flow = {.own = (u64)tcp, .connection = client, .mode = FLOW_TCP, .is_client = cookie == client};
	flow.acked_before = given_to_tcp(ctx, sk);
	if ((state->flags & FAST_SPLICE) && known_habit(cookie != client, live) == HABIT_NONBLOCKING &&
	    takes_splice(live->source_netns) && takes_splice(live->destination_netns))
		flow.mode = FLOW_UNDECIDED;
	if (fast_flows.update(&cookie, &flow)) {
		count(REASON_FAST_NO_ROOM);
		return NULL;
	}
	if (flow.mode == FLOW_UNDECIDED) {
		/* Sockets that ask for what the splice cannot give stay on TCP. */
		unsigned long flags = *(volatile unsigned long *)(tcp + OFFSET_FLAGS);
		long error = -1;
		if (!(flags & (1UL << FLAG_ZEROCOPY))) {
			error = fast_sockets.sock_hash_update(ctx, &cookie, BPF_NOEXIST);
		}
		if (error) {
			struct fast_flow *stored = fast_flows.lookup(&cookie);
			if (stored)
				stored->mode = FLOW_TCP;
		} else {
			struct connection *connection =
				connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
			if (connection)
				connection->kind = cookie == client ? CONNECTION_SPLICED : CONNECTION_SPLICED_ACCEPTED;
		}
	}
	return fast_flows.lookup(&cookie);
}

/* The dialling end is established. */
static __always_inline void on_dialled(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct connection *connection = connections.sk_storage_get(sk, 0, 0);
	if (!connection || connection->kind != CONNECTION_FAST)
		return;
	u64 cookie = socket_cookie(ctx);
	struct fast_connection *live = fast_connections.lookup(&cookie);
	if (!live)
		return;
	live->client_end = END_ESTABLISHED;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
	enter(ctx, sk, cookie, cookie, live);
}

/* The accepting end of a fast connection is established, in the namespace that the verdict named. */
static __always_inline void join(struct bpf_sock_ops *ctx, struct bpf_sock *sk, u64 client)
{
	struct fast_connection *live = fast_connections.lookup(&client);
	if (!live || live->server_end != END_NEW)
		return;
	u64 cookie = socket_cookie(ctx);
	struct fast_flow *server = enter(ctx, sk, cookie, client, live);
	live->server_cookie = cookie;
	live->server_end = server ? END_ESTABLISHED : END_NEW; /* without a flow, its close is not known for what it is */
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG |
					       BPF_SOCK_OPS_RTT_CB_FLAG);
	struct fast_flow *dialled = fast_flows.lookup(&client);
	if (!server || !dialled || server->mode == FLOW_TCP || dialled->mode == FLOW_TCP) {
		count(REASON_FAST_NOT_SPLICED);
		return;
	}
	server->peer = dialled->own;
	dialled->peer = server->own;
	server->peer_cookie = client;
	dialled->peer_cookie = cookie;
	count(REASON_FAST_SPLICED);
}

/* Both ends are closed, or one is and the other never was: exactly one caller moves the record. */
static __always_inline void conclude(u64 client, struct fast_connection *live)
{
	struct fast_connection record = *live;
	record.closed_at = bpf_ktime_get_ns();
	if (fast_connections.delete(&client))
		return;
	if (fast_closed.update(&client, &record))
		count(REASON_FAST_UNRECORDED);
}

static __always_inline void on_state(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	u64 cookie = socket_cookie(ctx);
	struct fast_flow *flow = fast_flows.lookup(&cookie);
	u64 client = flow ? flow->connection : cookie;
	u32 former = ctx->args[0], state = ctx->args[1];
	u64 bytes = 0;
	if (flow) {
		/* A FIN takes a number too, so what is sent is counted before it. */
		if (former == BPF_TCP_ESTABLISHED || former == BPF_TCP_CLOSE_WAIT)
			flow->tcp = given_to_tcp(ctx, sk) - flow->acked_before;
		bytes = flow->spliced + flow->tcp;
	}
	if (state != BPF_TCP_CLOSE) {
		learn(ctx, sk, cookie);
		return;
	}
	struct fast_connection *live = fast_connections.lookup(&client);
	if (live && client == cookie) {
		live->sent = bytes;
		live->client_end = live->client_end == END_ESTABLISHED ? END_CLOSED : END_FAILED;
		if (live->server_end != END_ESTABLISHED)
			conclude(client, live);
	} else if (live) {
		live->received = bytes;
		live->server_end = END_CLOSED;
		if (live->client_end >= END_CLOSED)
			conclude(client, live);
	}
	fast_flows.delete(&cookie);
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
		struct handoff *handoff = handoffs.lookup(&key);
		if (!handoff) {
			count(REASON_HANDOFF_MISSING);
			return;
		}
		connection = connections.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (connection) {
			connection->kind = CONNECTION_HANDED;
			connection->address = handoff->destination;
			connection->chosen = handoff->chosen;
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
	u64 client = ticket->fast_client, destination = ticket->fast_destination;
	tickets.delete(&tuple);
	if (!client)
		return;
	if (bpf_get_netns_cookie(ctx) == destination)
		join(ctx, sk, client);
	else
		count(REASON_FAST_FOREIGN_END);
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
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_dialled(ctx, sk);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		learn(ctx, sk, socket_cookie(ctx));
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ctx, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_accepted(ctx, sk);
		break;
	}
	return 1;
}

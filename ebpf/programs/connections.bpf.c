/*
 * What becomes of connections once their SYN is made: what dialling.bpf.c has decided about a socket is carried to the
 * other end.
 *
 * A captured connection's destination follows the SYN by the map handoffs and ends as storage of ztunnel's accepted
 * socket. Connections whose maker the kernel knows (ztunnel's announced deliveries, kubelet's, a pod's to itself, those
 * with a verdict) get tickets for arrivals.bpf.c. Of a fast connection both ends are kept count of until both are closed,
 * and when it has proven to be worth it, ztunnel is asked to enter them in the sockhash.
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
#include "owners.h"

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
	if (connection->kind == CONNECTION_DELIVERY)
		count(REASON_TICKET_DELIVERY);
	else if (connection->kind != CONNECTION_FAST)
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
 * A fast connection begins on TCP. Its ends could enter the sockhash here, at ESTABLISHED, but what is known then is
 * too little: an accepted socket has no owner yet, a dialled one may be switched to blocking or back as soon as it is
 * connected, and most connections are too short to be worth it. So both ends are only watched, by a callback for every
 * round trip that TCP measures, until one has shown enough traffic. By then how their owners wait can be read from the
 * sockets themselves. If it suits, ztunnel is asked to enter both (entry.bpf.c); either way there are no more callbacks,
 * unless the ring has no room: then the next one asks again.
 */

/* OWNER_POLLS if an end may be entered: how its owner waits, as far as its pod leaves it to us. */
static __always_inline int suits(u64 netns, const void *tcp)
{
	struct pod *pod = pods.lookup(&netns);
	if (!pod || (pod->flags & POD_TAKES_NO_SPLICE))
		return OWNER_WAITS;
	int owner = owner_of(tcp);
	return owner == OWNER_WAITS && (pod->flags & POD_TAKES_ANY_SPLICE) ? OWNER_POLLS : owner;
}

/* TCP has measured a round trip. */
static __always_inline void on_round_trip(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	if (ctx->data_segs_in + ctx->data_segs_out < TALKATIVE_SEGMENTS)
		return;
	u64 cookie = socket_cookie(ctx);
	struct fast_flow *flow = fast_flows.lookup(&cookie);
	void *tcp = to_tcp_sock(sk);
	if (!flow || !tcp) {
		stop_watching(ctx);
		return;
	}
	u64 client = flow->connection, peer = flow->peer;
	u32 zero = 0, is_client = flow->is_client;
	struct fast_connection *live = fast_connections.lookup(&client);
	struct fast_state *state = fast_state.lookup(&zero);
	if (!live || live->asked == ASKED_ENTRY || live->asked == ASKED_NEVER || !state || !(state->flags & FAST_SPLICE)) {
		stop_watching(ctx);
		return;
	}
	if (!peer)
		return; /* the other end's last ACK is still under way */
	int own = suits(is_client ? live->source_netns : live->destination_netns, tcp);
	int other = suits(is_client ? live->destination_netns : live->source_netns, (void *)peer);
	if (own == OWNER_NONE || other == OWNER_NONE)
		return; /* not accepted yet, or not used yet: how its owner will wait is open */
	bool again = live->asked == ASKED_IN_VAIN;
	stop_watching(ctx);
	live->asked = ASKED_NEVER;
	if (own != OWNER_POLLS || other != OWNER_POLLS) {
		count(REASON_FAST_NOT_SPLICED);
		return;
	}
	struct fast_talker talker = {.client = client, .netns = live->source_netns};
	talker.source = live->source;
	talker.destination = live->destination;
	if (fast_talkers.ringbuf_output(&talker, sizeof(talker), 0)) {
		/* Many have become talkative together, or ztunnel has been away for long. */
		if (!again)
			count(REASON_FAST_NO_ROOM);
		live->asked = ASKED_IN_VAIN;
		watch(ctx, BPF_SOCK_OPS_RTT_CB_FLAG);
		return;
	}
	live->asked = ASKED_ENTRY;
}

/*
 * The same of a leg: between an application that was captured and ztunnel, or between ztunnel and one that it delivers
 * to. Nothing is kept of it before; the two ends know of each other only that they have these addresses. Whichever end
 * finds that it is worth it also watches for its close, to forget then what entry.bpf.c has noted of both.
 */
static __always_inline void on_leg_round_trip(struct bpf_sock_ops *ctx, struct bpf_sock *sk, u32 kind)
{
	bool dials = kind == CONNECTION_CAPTURED || kind == CONNECTION_DELIVERY;
	u32 segments = ctx->data_segs_in + ctx->data_segs_out, zero = 0;
	if (segments < (dials ? TALKATIVE_SEGMENTS : TALKATIVE_SEGMENTS_ACCEPTED))
		return;
	u64 cookie = socket_cookie(ctx), netns = bpf_get_netns_cookie(ctx);
	struct fast_state *state = fast_state.lookup(&zero);
	void *tcp = to_tcp_sock(sk);
	stop_watching(ctx);
	if (!tcp || !state || !(state->flags & FAST_SPLICE) || fast_flows.lookup(&cookie))
		return;
	if (ctx->bytes_acked + ctx->bytes_received > (u64)segments * LEG_BULKY_SEGMENT)
		return;
	if ((kind == CONNECTION_CAPTURED || kind == CONNECTION_ACCEPTED) && suits(netns, tcp) != OWNER_POLLS) {
		count(REASON_FAST_NOT_SPLICED);
		return;
	}
	struct fast_talker talker = {.netns = netns};
	read_local(ctx, dials ? &talker.source : &talker.destination);
	read_remote(ctx, dials ? &talker.destination : &talker.source);
	if (fast_talkers.ringbuf_output(&talker, sizeof(talker), 0)) {
		count(REASON_FAST_NO_ROOM);
		watch(ctx, BPF_SOCK_OPS_RTT_CB_FLAG); /* to ask again */
	} else {
		watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
	}
}

static __always_inline void on_measured(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct connection *connection = connections.sk_storage_get(sk, 0, 0);
	if (connection && is_leg(connection))
		on_leg_round_trip(ctx, sk, connection->kind);
	else
		on_round_trip(ctx, sk);
}

/* Begins to keep count of one end. */
static __always_inline struct fast_flow *keep_count(struct bpf_sock_ops *ctx, struct bpf_sock *sk, u64 cookie, u64 client)
{
	struct fast_flow flow = {.own = (u64)to_tcp_sock(sk), .connection = client, .is_client = cookie == client};
	flow.acked_before = given_to_tcp(ctx, sk);
	if (fast_flows.update(&cookie, &flow))
		count(REASON_FAST_NO_ROOM);
	return fast_flows.lookup(&cookie);
}

/* The dialling end is established. */
static __always_inline void on_dialled(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct connection *connection = connections.sk_storage_get(sk, 0, 0);
	if (!connection)
		return;
	if (is_leg(connection))
		begin_leg(ctx);
	if (connection->kind != CONNECTION_FAST)
		return;
	u64 cookie = socket_cookie(ctx);
	struct fast_connection *live = fast_connections.lookup(&cookie);
	if (!live)
		return;
	stop_pacing(ctx);
	live->client_end = END_ESTABLISHED;
	if (keep_count(ctx, sk, cookie, cookie))
		watch(ctx, BPF_SOCK_OPS_RTT_CB_FLAG);
}

/* The accepting end of a fast connection is established, in the namespace that the verdict named. */
static __always_inline void join(struct bpf_sock_ops *ctx, struct bpf_sock *sk, u64 client)
{
	struct fast_connection *live = fast_connections.lookup(&client);
	if (!live || live->server_end != END_NEW)
		return;
	stop_pacing(ctx);
	u64 cookie = socket_cookie(ctx);
	struct fast_flow *server = keep_count(ctx, sk, cookie, client);
	live->server_cookie = cookie;
	live->server_end = server ? END_ESTABLISHED : END_NEW; /* without a flow, its close is not known for what it is */
	struct fast_flow *dialled = fast_flows.lookup(&client);
	u32 events = BPF_SOCK_OPS_STATE_CB_FLAG;
	if (server && dialled) {
		server->peer = dialled->own;
		dialled->peer = server->own;
		events |= BPF_SOCK_OPS_RTT_CB_FLAG;
	}
	watch(ctx, events);
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
	if (flow && !flow->connection) {
		u64 other = flow->peer_cookie;
		if (ctx->args[1] == BPF_TCP_CLOSE) {
			fast_flows.delete(&cookie);
			fast_flows.delete(&other);
		}
		return;
	}
	u64 client = flow ? flow->connection : cookie, bytes = 0;
	u32 former = ctx->args[0], state = ctx->args[1];
	if (flow) {
		/* A FIN takes a number too, so what is sent is counted before it. */
		if (former == BPF_TCP_ESTABLISHED || former == BPF_TCP_CLOSE_WAIT)
			flow->tcp = given_to_tcp(ctx, sk) - flow->acked_before;
		bytes = flow->spliced + flow->tcp;
	}
	if (state != BPF_TCP_CLOSE)
		return;
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
			begin_leg(ctx);
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
			begin_leg(ctx);
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
		stop_pacing_tunnel(ctx);
		on_dialled(ctx, sk);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		on_measured(ctx, sk);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		on_state(ctx, sk);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		stop_pacing_tunnel(ctx);
		on_accepted(ctx, sk);
		break;
	}
	return 1;
}

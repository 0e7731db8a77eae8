/*
 * The same-node splice: what one application of a fast connection sends goes straight into the other's receive queue.
 *
 * Order is kept because a reader takes the splice's queue first and TCP's second: a direction may change from the splice
 * to TCP at any message, and from TCP to the splice only when nothing that TCP carries is unread, that is, when the
 * receiver's copied_seq has reached the sender's write_seq. Thus a direction goes by TCP while not both ends are entered,
 * and so does one whose receiver does not keep up, until it has: TCP has flow control, the splice has none.
 *
 * For the same reason a connection may be entered (entry.bpf.c) while it is in use. A call of the sender's that was under
 * way holds its socket's lock until all it says is in write_seq. A call of the receiver's that was under way knows only
 * TCP's queue, and would not notice the splice's if it waits; therefore the first message after both ends are entered
 * still goes by TCP, and when it has been read, that call has ended.
 *
 * Between the two stands a short wait. Who splices takes the reader's socket lock; while the reader copies with it held, the
 * kernel puts the sender to sleep, and by the time it is awake again the reader is often in its next call. Falling back to
 * TCP and returning costs more still. So a sender that finds the reader at work, or some part of the limit waiting, looks
 * for some microseconds whether that changes, as adaptive locks do. It looks in vain when the reader does not run or does
 * something else; then it does not look again for a while. Its own lock is held meanwhile: if the other end is looking
 * for that one, it goes on at once.
 *
 * A direction returns to the splice once; to fall back again its reader must have taken something from the splice since,
 * which proves that no call that began with TCP data is still running. The other end is read through its address, after
 * its cookie has shown that it is still the same socket. Offsets come from the running kernel's type information.
 */
#include <uapi/linux/bpf.h>

#include "abi.h"
#include "maps.h"

static void *(*to_tcp_sock)(void *) = (void *)BPF_FUNC_skc_to_tcp_sock;

/* Waits this many times the limit for a sign of a reader, then takes to TCP nevertheless: memory stays bounded. */
#define PATIENCE 4
/* Bytes: what a message that waits costs the kernel besides its payload, which alone is in sk_rmem_alloc. */
#define MESSAGE_OVERHEAD 1024

/* Part of the limit that may wait before a sender looks whether the reader takes some of it. */
#define EASY_PART 4
#define LOOK_NANOSECONDS 50000
#define LOOKS 1024 /* at most, some 50 ns each; a bound for the verifier */
#define RESTS 16 /* messages */

static __always_inline void count(u32 reason)
{
	u64 *counter = counters.lookup(&reason);
	if (counter)
		*counter += 1;
}

static __always_inline int by_tcp(struct fast_flow *flow, void *tcp)
{
	u64 acked = *(volatile u64 *)(tcp + OFFSET_BYTES_ACKED);
	u32 written = *(volatile u32 *)(tcp + OFFSET_WRITE_SEQ), unacked = *(volatile u32 *)(tcp + OFFSET_SND_UNA);
	flow->tcp = acked + (u32)(written - unacked) - flow->acked_before;
	return SK_PASS;
}

/*
 * Whether more than this waits: payload, and what the messages that wait cost besides. Their number is not known, but it
 * is no more than were sent since the last mark but one, up to which the reader had come when the last one was made.
 */
static __always_inline bool waits(const struct fast_flow *flow, u64 queued, u64 limit)
{
	return queued + MESSAGE_OVERHEAD * ((u64)flow->messages + flow->older_messages) > limit;
}

static __always_inline u32 read_peer(u64 peer, u32 offset)
{
	u32 value = 0;
	bpf_probe_read_kernel(&value, sizeof(value), (void *)(peer + offset));
	return value;
}

/* Looks for a moment at which the reader can be given more. Returns the bytes that wait now. */
static __always_inline u32 look(struct fast_flow *flow, u64 peer, u64 peer_cookie, u32 queued, u32 easy)
{
	if (queued <= easy && !read_peer(peer, OFFSET_OWNED))
		return queued;
	if (flow->rests) {
		flow->rests -= 1;
		return queued;
	}
	struct fast_flow *back = fast_flows.lookup(&peer_cookie);
	if (!back || back->waiting)
		return queued;
	flow->waiting = 1;
	bool in_vain = true;
	u64 until = bpf_ktime_get_ns() + LOOK_NANOSECONDS;
	for (int number = 0; number < LOOKS; number++) {
		queued = read_peer(peer, OFFSET_RMEM_ALLOC);
		if (queued <= easy && !read_peer(peer, OFFSET_OWNED)) {
			in_vain = false;
			break;
		}
		if (bpf_ktime_get_ns() > until)
			break;
	}
	flow->waiting = 0;
	if (in_vain)
		flow->rests = RESTS;
	return queued;
}

int mesh_sk_msg(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	if (!sk)
		return SK_PASS;
	void *tcp = to_tcp_sock(sk);
	if (!tcp)
		return SK_PASS;
	u64 cookie = *(volatile u64 *)(tcp + OFFSET_COOKIE);
	struct fast_flow *flow = fast_flows.lookup(&cookie);
	if (!flow)
		return SK_PASS;
	if (sk->state != BPF_TCP_ESTABLISHED && sk->state != BPF_TCP_CLOSE_WAIT)
		return by_tcp(flow, tcp); /* shut down for sending: the splice would still take it, TCP refuses */
	u64 peer = flow->peer, peer_cookie = flow->peer_cookie, actual = 0;
	u32 zero = 0;
	struct fast_state *state = fast_state.lookup(&zero);
	if (!state || flow->mode == FLOW_TCP || !peer_cookie || !(state->flags & FAST_SPLICE)) {
		if (flow->mode == FLOW_SPLICED)
			flow->mode = FLOW_TCP;
		return by_tcp(flow, tcp);
	}
	bpf_probe_read_kernel(&actual, sizeof(actual), (void *)(peer + OFFSET_COOKIE));
	if (actual != peer_cookie) {
		flow->mode = FLOW_TCP; /* the other end is gone: TCP knows what to say */
		return by_tcp(flow, tcp);
	}
	if (flow->mode == FLOW_PAIRED) {
		flow->mode = FLOW_UNDECIDED;
		return by_tcp(flow, tcp);
	}
	bool bulky = !flow->connection && msg->size > LEG_BULKY_MESSAGE;
	if (flow->mode == FLOW_UNDECIDED) {
		if (bulky) {
			flow->mode = FLOW_TCP;
			return by_tcp(flow, tcp);
		}
		u32 written = *(volatile u32 *)(tcp + OFFSET_WRITE_SEQ), copied = ~written;
		bpf_probe_read_kernel(&copied, sizeof(copied), (void *)(peer + OFFSET_COPIED_SEQ));
		if (written != copied)
			return by_tcp(flow, tcp);
		by_tcp(flow, tcp);
		flow->mode = FLOW_SPLICED;
		flow->returned_at = flow->spliced;
		if (flow->spliced)
			count(REASON_FAST_RETURNED);
	}
	u32 queued = read_peer(peer, OFFSET_RMEM_ALLOC), wanted = read_peer(peer, OFFSET_RCVLOWAT);
	u32 limit = state->queue_limit;
	queued = look(flow, peer, peer_cookie, queued, limit / EASY_PART);
	u64 since = flow->spliced - flow->returned_at;
	if (flow->spliced >= flow->mark + queued) {
		flow->mark = flow->spliced;
		flow->older_messages = flow->messages;
		flow->messages = 0;
	}
	bool full = waits(flow, queued, limit) && (queued < since || waits(flow, queued, PATIENCE * (u64)limit));
	/* An edge-triggered reader may take a short read for the last one: nothing by TCP behind what it has not read. */
	bulky = bulky && !queued;
	if (full || bulky || wanted > 1) {
		/* Nobody can tell how long a reader that waits for more than one byte stays with TCP's queue. */
		flow->mode = bulky || wanted > 1 ? FLOW_TCP : FLOW_UNDECIDED;
		if (full)
			count(REASON_FAST_FELL_BACK);
		return by_tcp(flow, tcp);
	}
	if (fast_sockets.msg_redirect_hash(msg, &peer_cookie, BPF_F_INGRESS) != SK_PASS) {
		flow->mode = FLOW_TCP; /* the other end is closing */
		return by_tcp(flow, tcp);
	}
	flow->spliced += msg->size;
	flow->messages += 1;
	return SK_PASS;
}

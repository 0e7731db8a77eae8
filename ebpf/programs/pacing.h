/*
 * Where a machine's congestion control paces (BBR), its timers take some eight percent of the processor time of bulk, and a
 * fast connection that falls back to TCP starts from a rate that was measured on next to nothing. On the node there is no
 * bottleneck to probe for, and between near nodes no queue worth the price. Everything else keeps what the machine's
 * administrator, or the application, has chosen.
 *
 * It must happen while a connection is being established: once a socket paces it does so for good, whatever its congestion
 * control is then (tcp(7), net/ipv4/tcp_input.c:tcp_init_transfer).
 */
#ifndef AMBIMESH_PACING_H
#define AMBIMESH_PACING_H

#include <uapi/linux/in.h>

#define OPTION_CONGESTION 13 /* TCP_CONGESTION */
#define NEAR_MICROSECONDS 500 /* a round trip within one data centre */
#define SRTT_SHIFT 3 /* the kernel keeps eight times the smoothed round trip */

static __always_inline void stop_pacing(struct bpf_sock_ops *ctx)
{
	char used[16] = {}, unpaced[] = "cubic", always_there[] = "reno";
	if (bpf_getsockopt(ctx, IPPROTO_TCP, OPTION_CONGESTION, used, sizeof(used)))
		return;
	if (used[0] != 'b' || used[1] != 'b' || used[2] != 'r')
		return;
	if (bpf_setsockopt(ctx, IPPROTO_TCP, OPTION_CONGESTION, unpaced, sizeof(unpaced)))
		bpf_setsockopt(ctx, IPPROTO_TCP, OPTION_CONGESTION, always_there, sizeof(always_there));
}

/* A tunnel of ztunnel's or a waypoint's, from either end. */
static __always_inline void stop_pacing_tunnel(struct bpf_sock_ops *ctx)
{
	bool tunnel = ctx->local_port == ZTUNNEL_HBONE_PORT || bpf_ntohl(ctx->remote_port) == ZTUNNEL_HBONE_PORT;
	if (tunnel && ctx->srtt_us >> SRTT_SHIFT < NEAR_MICROSECONDS)
		stop_pacing(ctx);
}

#endif

/*
 * Tries on two sockets of the loader's own whether this kernel's splice can be used: the program sends what socket 1
 * says to socket 2 past TCP, and lets what socket 2 says go by TCP, noting what the fields that splice.bpf.c relies on
 * hold at that moment.
 */
#include <uapi/linux/bpf.h>
#include <linux/fcntl.h>

#include "owners.h"

struct noted {
	u64 cookie;
	u64 bytes_acked;
	u32 rmem_alloc;
	u32 rcvlowat;
	u32 write_seq;
	u32 copied_seq;
	u32 snd_una;
	u32 owner;
	u32 owned;
	u32 other_owned;
	u32 zero;
};

BPF_SOCKHASH(sockets, u32, 4);
BPF_ARRAY(splicing_from, u64, 1); /* cookie of socket 1; 0: everything goes by TCP */
BPF_ARRAY(noted, struct noted, 1);
BPF_ARRAY(spliced_from, u64, 1); /* address of socket 1, once it has been spliced from */

static void *(*to_tcp_sock)(void *) = (void *)BPF_FUNC_skc_to_tcp_sock;

int selftest_sk_msg(struct sk_msg_md *msg)
{
	u32 zero = 0, second = 2;
	struct bpf_sock *sk = msg->sk;
	void *tcp = sk ? to_tcp_sock(sk) : NULL;
	u64 *source = splicing_from.lookup(&zero);
	if (!tcp || !source)
		return SK_PASS;
	struct noted now = {.cookie = *(volatile u64 *)(tcp + OFFSET_COOKIE)};
	if (now.cookie == *source) {
		u64 address = (u64)tcp;
		spliced_from.update(&zero, &address);
		sockets.msg_redirect_hash(msg, &second, BPF_F_INGRESS);
		return SK_PASS;
	}
	now.bytes_acked = *(volatile u64 *)(tcp + OFFSET_BYTES_ACKED);
	now.rmem_alloc = *(volatile u32 *)(tcp + OFFSET_RMEM_ALLOC);
	now.rcvlowat = *(volatile u32 *)(tcp + OFFSET_RCVLOWAT);
	now.write_seq = *(volatile u32 *)(tcp + OFFSET_WRITE_SEQ);
	now.copied_seq = *(volatile u32 *)(tcp + OFFSET_COPIED_SEQ);
	now.snd_una = *(volatile u32 *)(tcp + OFFSET_SND_UNA);
	now.owner = owner_of(tcp);
	now.owned = *(volatile u32 *)(tcp + OFFSET_OWNED);
	now.other_owned = ~0;
	u64 *other = spliced_from.lookup(&zero);
	if (other && *other)
		bpf_probe_read_kernel(&now.other_owned, sizeof(now.other_owned), (void *)(*other + OFFSET_OWNED));
	noted.update(&zero, &now);
	return SK_PASS;
}

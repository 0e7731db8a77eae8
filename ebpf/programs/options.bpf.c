/*
 * setsockopt(2) of sockets that are spliced: what the splice cannot give is refused, as by a kernel that lacks it, so
 * that applications fall back to what they do elsewhere. These are completions of MSG_ZEROCOPY (spliced payload is
 * copied, or counted otherwise) and protocols on top of TCP (kTLS would hand over plaintext).
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/in.h>
#include <linux/errno.h>
#include <linux/socket.h>

#include "abi.h"
#include "maps.h"

#define OPTION_ZEROCOPY 60 /* SO_ZEROCOPY */
#define OPTION_ULP 31      /* TCP_ULP */

int mesh_setsockopt(struct bpf_sockopt *ctx)
{
	bool refused = (ctx->level == 1 && ctx->optname == OPTION_ZEROCOPY) ||
		       (ctx->level == IPPROTO_TCP && ctx->optname == OPTION_ULP);
	ctx->optlen = 0; /* the kernel goes on with the caller's own buffer, whatever its size */
	if (!refused)
		return 1;
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	struct connection *connection = connections.sk_storage_get(sk, 0, 0);
	if (!connection || !connection->spliced)
		return 1;
	bpf_set_retval(-EOPNOTSUPP);
	return 0;
}

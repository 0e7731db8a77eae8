/*
 * How a socket's owner waits. Only sockets whose owners never wait in the kernel may be spliced: of a socket in a
 * sockhash a blocking recv(2) may end with EAGAIN whenever it is woken without data (a signal, the other side's ACK of a
 * FIN, room to write), and does not wait for all.
 *
 * Nor may sockets be that are in an edge-triggered epoll set. When a direction falls back to TCP, its reader's bytes lie
 * in two queues: a read ends where the first does, FIONREAD counts the first alone, and for the second no edge comes. An
 * owner that takes either for "all is read", as many do, would wait for good.
 */
#ifndef AMBIMESH_OWNERS_H
#define AMBIMESH_OWNERS_H

#define OWNER_NONE 0 /* not accepted yet, or not used, or closed */
#define OWNER_POLLS 1
#define OWNER_WAITS 2
#define OWNER_EDGES 3 /* is told once of what has arrived, whether it waits or not */

#define EDGE_TRIGGERED (1U << 31) /* EPOLLET */
#define SETS_MOST 8 /* epoll sets that are looked through; who is in more is taken for edge-triggered */

/*
 * Whether a file is in an edge-triggered epoll set: file.f_ep, if any, is the head of a list of struct epitem. Whatever
 * cannot be read is taken for it, and so is everything on a kernel that keeps this elsewhere.
 */
static __always_inline bool is_edge_triggered(u64 file)
{
#ifdef OFFSET_FILE_SETS
	u64 head = 0, link = 0;
	if (bpf_probe_read_kernel(&head, sizeof(head), (void *)(file + OFFSET_FILE_SETS)))
		return true;
	if (!head)
		return false;
	if (bpf_probe_read_kernel(&link, sizeof(link), (void *)head))
		return true;
#pragma unroll
	for (int number = 0; number < SETS_MOST; number++) {
		u32 events = 0;
		if (!link)
			return false;
		u64 item = link - OFFSET_ITEM_LINK;
		if (bpf_probe_read_kernel(&events, sizeof(events), (void *)(item + OFFSET_ITEM_EVENTS)) ||
		    (events & EDGE_TRIGGERED) || bpf_probe_read_kernel(&link, sizeof(link), (void *)link))
			return true;
	}
	return link != 0;
#else
	return true;
#endif
}

/*
 * Whether a socket's owner has read or sent anything. Before, it may be about to say how it waits: between accept(2) and
 * fcntl(2) or epoll_ctl(2).
 */
static __always_inline bool is_used(const void *tcp)
{
	u64 received = 0;
	u32 next = 0, copied = 0, sent = 0;
	bpf_probe_read_kernel(&received, sizeof(received), tcp + OFFSET_BYTES_RECEIVED);
	bpf_probe_read_kernel(&next, sizeof(next), tcp + OFFSET_RCV_NXT);
	bpf_probe_read_kernel(&copied, sizeof(copied), tcp + OFFSET_COPIED_SEQ);
	bpf_probe_read_kernel(&sent, sizeof(sent), tcp + OFFSET_DATA_SEGS_OUT);
	return sent || (u32)received != next - copied;
}

/* Of the socket at this address, which may have gone meanwhile: then the answer is of no use, and of no harm. */
static __always_inline int owner_of(const void *tcp)
{
	u64 owner = 0, file = 0;
	u32 flags = 0;
	bpf_probe_read_kernel(&owner, sizeof(owner), tcp + OFFSET_SOCKET);
	if (owner)
		bpf_probe_read_kernel(&file, sizeof(file), (void *)(owner + OFFSET_SOCKET_FILE));
	if (!file || bpf_probe_read_kernel(&flags, sizeof(flags), (void *)(file + OFFSET_FILE_FLAGS)) ||
	    !is_used(tcp))
		return OWNER_NONE;
	if (is_edge_triggered(file))
		return OWNER_EDGES;
	return flags & O_NONBLOCK ? OWNER_POLLS : OWNER_WAITS;
}

#endif

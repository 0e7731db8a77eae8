/*
 * How a socket's owner waits. Only sockets whose owners never wait in the kernel may be spliced: of a socket in a
 * sockhash a blocking recv(2) may end with EAGAIN whenever it is woken without data (a signal, the other side's ACK of a
 * FIN, room to write), and does not wait for all.
 */
#ifndef AMBIMESH_OWNERS_H
#define AMBIMESH_OWNERS_H

#define OWNER_NONE 0 /* not accepted yet, or closed */
#define OWNER_POLLS 1
#define OWNER_WAITS 2

/* Of the socket at this address, which may have gone meanwhile: then the answer is of no use, and of no harm. */
static __always_inline int owner_of(const void *tcp)
{
	u64 owner = 0, file = 0;
	u32 flags = 0;
	bpf_probe_read_kernel(&owner, sizeof(owner), tcp + OFFSET_SOCKET);
	if (owner)
		bpf_probe_read_kernel(&file, sizeof(file), (void *)(owner + OFFSET_SOCKET_FILE));
	if (!file || bpf_probe_read_kernel(&flags, sizeof(flags), (void *)(file + OFFSET_FILE_FLAGS)))
		return OWNER_NONE;
	return flags & O_NONBLOCK ? OWNER_POLLS : OWNER_WAITS;
}

#endif

/* Addresses as words in network order, IPv4 as ::ffff:a.b.c.d. */
#ifndef AMBIMESH_ADDRESSES_H
#define AMBIMESH_ADDRESSES_H

#define MAPPED_PREFIX bpf_htonl(0xffff)
#define LOOPBACK_IPV4 bpf_htonl(0x7f000001)

static __always_inline void copy_ip(u32 *to, const u32 *from)
{
	to[0] = from[0];
	to[1] = from[1];
	to[2] = from[2];
	to[3] = from[3];
}

/*
 * The barrier keeps clang from merging the loads of the IPv4 and the IPv6 field of a context into one load through a
 * computed pointer, which the verifier does not accept.
 */
static __always_inline void map_ipv4(u32 *to, u32 address)
{
	asm volatile("" : "+r"(address));
	to[0] = 0;
	to[1] = 0;
	to[2] = MAPPED_PREFIX;
	to[3] = address;
}

static __always_inline bool is_mapped(const u32 *ip)
{
	return ip[0] == 0 && ip[1] == 0 && ip[2] == MAPPED_PREFIX;
}

static __always_inline bool is_loopback(const u32 *ip)
{
	if (is_mapped(ip))
		return (bpf_ntohl(ip[3]) >> 24) == 127;
	return ip[0] == 0 && ip[1] == 0 && ip[2] == 0 && ip[3] == bpf_htonl(1);
}

/* 0.0.0.0 and ::, which the kernel takes for the machine itself. */
static __always_inline bool is_unspecified(const u32 *ip)
{
	return ip[3] == 0 && (is_mapped(ip) || (ip[0] == 0 && ip[1] == 0 && ip[2] == 0));
}

static __always_inline bool is_multicast(const u32 *ip)
{
	if (is_mapped(ip))
		return (bpf_ntohl(ip[3]) >> 28) == 14;
	return (bpf_ntohl(ip[0]) >> 24) == 0xff;
}

static __always_inline bool is_ipv6_link_local(const u32 *ip)
{
	return (bpf_ntohl(ip[0]) >> 22) == (0xfe80 >> 6);
}

#endif

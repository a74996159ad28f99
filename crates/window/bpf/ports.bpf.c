/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The port guard of a server space: what its sockets may bind, be reached at, and reach.
 *
 * Attached to the server space's cgroup, so it judges every socket that was made there. */
#include "hs.h"

enum { REFUSE = 0, ALLOW = 1, ALLOW_WITHOUT_CAPABILITY = 3 };
enum { EACCES = 13 };
enum { ICMP = 1, TCP = 6, UDP = 17, ICMP6 = 58 };
/* IPv6 extension headers that a program may ask for. */
enum { HOP_BY_HOP = 0, ROUTING = 43, DESTINATION = 60 };
/* The index of the loopback interface in every network namespace. */
enum { LOOPBACK = 1 };

/* What was refused. */
enum what { BIND, CONNECT, LISTEN, WHATS };

/* One bit for each port. */
enum { SET_BYTES = 65536 / 8 };

/* For TCP and UDP, in this order. */
struct config {
	/* What may be bound, and reached from elsewhere. */
	__u8 registered[2][SET_BYTES];
	/* What may not be reached over loopback. */
	__u8 denied[2][SET_BYTES];
};

struct {
	HS_INT(type, BPF_MAP_TYPE_ARRAY);
	HS_INT(max_entries, 1);
	HS_TYPE(key, __u32);
	HS_TYPE(value, struct config);
} config SEC(".maps");

struct {
	HS_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	HS_INT(max_entries, WHATS);
	HS_TYPE(key, __u32);
	HS_TYPE(value, __u64);
} totals SEC(".maps");

struct refusal {
	__u8 what;
	__u8 protocol;
	__u16 port;
};

/* The ports that were refused last, each with its count; the oldest make room. */
struct {
	HS_INT(type, BPF_MAP_TYPE_LRU_HASH);
	HS_INT(max_entries, 1024);
	HS_TYPE(key, struct refusal);
	HS_TYPE(value, __u64);
} refused SEC(".maps");

#define INLINE static __attribute__((always_inline))

INLINE __u16 host16(__u16 value)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap16(value) : value;
}

INLINE __u32 host32(__u32 value)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap32(value) : value;
}

INLINE struct config *the_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

INLINE int is_in(const __u8 *set, __u16 port)
{
	__u32 at = port;

	/* The compiler knows that this is below 65536, and older verifiers do not see it from a
	 * swap of bytes: keep the former from leaving out what tells the latter. */
	asm volatile("" : "+r"(at));
	return set[at / 8 % SET_BYTES] >> (at % 8) & 1;
}

INLINE int registered(__u32 protocol, __u16 port)
{
	struct config *config = the_config();

	if (!config || (protocol != TCP && protocol != UDP))
		return 0;
	return is_in(config->registered[protocol == UDP], port);
}

/* Without a configuration everything is denied. */
INLINE int denied(__u32 protocol, __u16 port)
{
	struct config *config = the_config();

	if (protocol != TCP && protocol != UDP)
		return 0;
	return !config || is_in(config->denied[protocol == UDP], port);
}

INLINE void count(__u8 what, __u8 protocol, __u16 port)
{
	struct refusal key = { .what = what, .protocol = protocol, .port = port };
	__u32 index = what;
	__u64 one = 1, *known = bpf_map_lookup_elem(&totals, &index);

	if (known)
		*known += 1;
	known = bpf_map_lookup_elem(&refused, &key);
	if (known)
		__sync_fetch_and_add(known, 1);
	else
		bpf_map_update_elem(&refused, &key, &one, BPF_ANY);
}

INLINE int refuse(__u8 what, __u8 protocol, __u16 port)
{
	count(what, protocol, port);
	bpf_set_retval(-EACCES);
	return REFUSE;
}

/* Port 0 asks for any port that is free: clients do. What listens on one is reached over loopback
 * alone, see hs_ports_ingress. */
INLINE int bind(struct bpf_sock_addr *context)
{
	__u16 port = host16(context->user_port);

	if (!port)
		return ALLOW;
	if (registered(context->protocol, port))
		return ALLOW_WITHOUT_CAPABILITY;
	return refuse(BIND, context->protocol, port);
}

SEC("cgroup/bind4")
int hs_ports_bind4(struct bpf_sock_addr *context)
{
	return bind(context);
}

SEC("cgroup/bind6")
int hs_ports_bind6(struct bpf_sock_addr *context)
{
	return bind(context);
}

/* Addresses that lead to this host whatever its interfaces are: 127.0.0.0/8, and 0.0.0.0, which
 * stands for 127.0.0.1. Multicast and broadcast are heard on this host too. */
INLINE int is_here4(__u32 network_order)
{
	__u32 address = host32(network_order);

	return address >> 24 == 127 || !address || address >> 28 == 14 || address == 0xffffffff;
}

INLINE int is_here6(__u32 a, __u32 b, __u32 c, __u32 d)
{
	if (host32(a) >> 24 == 0xff)
		return 1;
	if (a || b)
		return 0;
	if (host32(c) == 0xffff)
		return is_here4(d);
	return !c && host32(d) <= 1;
}

/* The answer that tells at once; hs_ports_egress knows more. */
INLINE int reach(struct bpf_sock_addr *context, int is_here)
{
	__u16 port = host16(context->user_port);

	if (!is_here || !denied(context->protocol, port))
		return ALLOW;
	return refuse(CONNECT, context->protocol, port);
}

INLINE int reach6(struct bpf_sock_addr *context)
{
	return reach(context, is_here6(context->user_ip6[0], context->user_ip6[1],
				       context->user_ip6[2], context->user_ip6[3]));
}

SEC("cgroup/connect4")
int hs_ports_connect4(struct bpf_sock_addr *context)
{
	return reach(context, is_here4(context->user_ip4));
}

SEC("cgroup/connect6")
int hs_ports_connect6(struct bpf_sock_addr *context)
{
	return reach6(context);
}

SEC("cgroup/sendmsg4")
int hs_ports_sendmsg4(struct bpf_sock_addr *context)
{
	return reach(context, is_here4(context->user_ip4));
}

SEC("cgroup/sendmsg6")
int hs_ports_sendmsg6(struct bpf_sock_addr *context)
{
	return reach6(context);
}

/* A listener on a port that is not registered hears nothing from other hosts. It need not have
 * been bound to have such a port, and no other hook stands before listen(2). */
SEC("cgroup_skb/ingress")
int hs_ports_ingress(struct __sk_buff *packet)
{
	struct bpf_sock *socket = packet->sk;
	__u16 port;

	if (!socket || socket->state != BPF_TCP_LISTEN || packet->ifindex == LOOPBACK)
		return ALLOW;
	port = socket->src_port;
	if (registered(TCP, port))
		return ALLOW;
	count(LISTEN, TCP, port);
	return REFUSE;
}

/* Finds the transport header; 0 where there is none that is known, or it is not at hand, as it is in
 * everything that the kernel sends for a socket. */
INLINE __u8 *transport(__u8 *packet, __u8 *end, __u8 *protocol)
{
	__u8 *at = packet + 40;

	if (packet + 20 > end)
		return 0;
	if (packet[0] >> 4 == 4) {
		*protocol = packet[9];
		return packet + (packet[0] & 15) * 4;
	}
	if (at > end)
		return 0;
	*protocol = packet[6];
	for (int i = 0; i < 4; i++) {
		if (*protocol != HOP_BY_HOP && *protocol != ROUTING && *protocol != DESTINATION)
			return at;
		if (at + 2 > end)
			return 0;
		*protocol = at[0];
		at += (at[1] + 1) * 8;
	}
	return 0;
}

/* What leaves by the loopback interface goes to this host, by whatever address: no new connection
 * and no datagram gets to a denied port. */
SEC("cgroup_skb/egress")
int hs_ports_egress(struct __sk_buff *packet)
{
	__u8 *end = (void *)(long)packet->data_end, *at, protocol = 0;
	__u16 port;

	if (packet->ifindex != LOOPBACK)
		return ALLOW;
	at = transport((void *)(long)packet->data, end, &protocol);
	if (!at)
		return REFUSE;
	if (protocol == ICMP || protocol == ICMP6)
		return ALLOW;
	if (at + 4 > end)
		return REFUSE;
	port = at[2] << 8 | at[3];
	if (protocol == TCP) {
		/* The 14th byte of the header: only SYN without ACK begins a connection. */
		if (at + 14 > end)
			return REFUSE;
		if ((at[13] & 0x12) != 2)
			return ALLOW;
	} else if (protocol != UDP) {
		return REFUSE;
	}
	if (!denied(protocol, port))
		return ALLOW;
	count(CONNECT, protocol, port);
	return REFUSE;
}

char licence[] SEC("license") = "Dual MIT/GPL";

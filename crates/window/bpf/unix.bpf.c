/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The Unix guard of a portspace: nobody but its broker may name a socket by a path.
 *
 * Attached to the portspace's cgroup, so it judges every socket that was made there. Abstract
 * and unnamed addresses are left alone: they belong to the portspace's own network namespace. */
#include "hs.h"

enum { REFUSE = 0, ALLOW = 1 };

/* What of the kernel's own types is used; the loader finds the real offsets (CO-RE). */
struct sockaddr;
struct sockaddr_un {
	__u16 sun_family;
	char sun_path[108];
} __attribute__((preserve_access_index));
struct bpf_sock_addr_kern {
	struct sockaddr *uaddr;
	__u32 uaddrlen;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *context) __ksym;
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym;

/* Whose connections are let through. */
struct party {
	/* The cgroup that this is attached to: nobody in it is the broker, even if the broker has
	 * died and its number was given to somebody there. */
	__u64 cgroup;
	/* The broker's thread group, 0 for none. */
	__u64 broker;
};

struct {
	HS_INT(type, BPF_MAP_TYPE_ARRAY);
	HS_INT(max_entries, 1);
	HS_TYPE(key, __u32);
	HS_TYPE(value, struct party);
} parties SEC(".maps");

static __attribute__((always_inline)) int decide(struct bpf_sock_addr *context)
{
	struct bpf_sock_addr_kern *kernel = bpf_cast_to_kern_ctx(context);
	struct sockaddr_un *address;
	struct party *party;
	__u32 zero = 0;

	if (kernel->uaddrlen <= sizeof(__u16))
		return ALLOW;
	/* 1 asks for the type's id in the running kernel. */
	address = bpf_rdonly_cast(kernel->uaddr, __builtin_btf_type_id(*(struct sockaddr_un *)0, 1));
	if (!address->sun_path[0])
		return ALLOW;
	party = bpf_map_lookup_elem(&parties, &zero);
	if (party && party->broker && party->broker == bpf_get_current_pid_tgid() >> 32 &&
	    party->cgroup != bpf_get_current_cgroup_id())
		return ALLOW;
	return REFUSE;
}

SEC("cgroup/connect_unix")
int hs_unix_connect(struct bpf_sock_addr *context)
{
	return decide(context);
}

SEC("cgroup/sendmsg_unix")
int hs_unix_sendmsg(struct bpf_sock_addr *context)
{
	return decide(context);
}

char licence[] SEC("license") = "Dual MIT/GPL";

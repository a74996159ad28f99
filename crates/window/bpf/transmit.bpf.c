/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The transmit guard: drops what a portspace tries to send through a packet socket.
 *
 * Every such socket was made by the guard worker with SO_MARK set to HS_MARK, which its holder
 * cannot change. Attached to the egress of every interface, ahead of the host's own programs. */
#include "hs.h"

/* Also TC_ACT_UNSPEC and TC_ACT_SHOT, so the program serves tcx and clsact alike. */
enum { NEXT = -1, DROP = 2 };

struct {
	HS_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	HS_INT(max_entries, 1);
	HS_TYPE(key, __u32);
	HS_TYPE(value, __u64);
} dropped SEC(".maps");

SEC("tcx/egress")
int hs_transmit(struct __sk_buff *skb)
{
	__u32 zero = 0;
	__u64 *count;

	if (skb->mark != HS_MARK)
		return NEXT;
	count = bpf_map_lookup_elem(&dropped, &zero);
	if (count)
		*count += 1;
	return DROP;
}

char licence[] SEC("license") = "Dual MIT/GPL";

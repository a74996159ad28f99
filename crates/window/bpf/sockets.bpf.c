/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The observer of a Unix datagram socket: copies each message that is about to be queued there, and
 * lets it through whole.
 *
 * It runs in the writer's own call. The sender is who the message says (SCM_CREDENTIALS, checked by
 * the kernel), or else the process that is in the call. */
#include "hs.h"

/* All of these are the same in sockets/observe.rs and sockets/mod.rs. */
enum { RING = 16 << 20, LARGEST = 448 << 10, HAD_DESCRIPTORS = 1 };

/* Waking the tee takes longer than all else here, so it is woken no more often than this (in
 * nanoseconds), and looks again of its own accord for as long as it finds something; and more often
 * when the ring fills up. The first is less than AGAIN in sockets/observe.rs. */
enum { SELDOM = 4000000, OFTEN = 200000, FILLING = RING / 8 };

/* What is used of the kernel's own types; the loader finds the real offsets (CO-RE). */
typedef struct {
	__u32 val;
} kuid_t;
struct upid {
	int nr;
} __attribute__((preserve_access_index));
struct pid {
	struct upid numbers[1];
} __attribute__((preserve_access_index));
struct scm_fp_list;
struct unix_skb_parms {
	struct pid *pid;
	kuid_t uid;
	kuid_t gid;
	struct scm_fp_list *fp;
} __attribute__((preserve_access_index));
struct sk_buff {
	char cb[48];
} __attribute__((preserve_access_index));
struct cred {
	kuid_t uid;
	kuid_t gid;
} __attribute__((preserve_access_index));
struct task_struct {
	int tgid;
	const struct cred *cred;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *context) __ksym;
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym;

struct {
	HS_INT(type, BPF_MAP_TYPE_RINGBUF);
	HS_INT(max_entries, RING);
} ring SEC(".maps");

struct message {
	__u32 total;
	__u32 length;
	__u32 pid;
	__u32 uid;
	__u32 gid;
	__u32 flags;
	/* Messages that found no room since the last one that did. */
	__u64 missed;
	char bytes[];
};

__u64 missed;
/* When the tee was woken last. */
__u64 woken;

/* Whether to wake the tee, asked when the record has its place in the ring: one that comes after the
 * tee has looked is either seen by it as busy, or asks later than that. */
static __attribute__((always_inline)) __u64 wake(void)
{
	__u64 now = bpf_ktime_get_ns(), last = *(volatile __u64 *)&woken;
	__u64 pause = bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > FILLING ? OFTEN : SELDOM;

	/* The clocks of two processors may differ by a little. */
	if ((__s64)(now - last) < (__s64)pause)
		return BPF_RB_NO_WAKEUP;
	return __sync_val_compare_and_swap(&woken, last, now) == last ? BPF_RB_FORCE_WAKEUP :
									BPF_RB_NO_WAKEUP;
}

static __attribute__((always_inline)) void fill(struct __sk_buff *packet, struct message *message)
{
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(packet);
	/* 1 asks for the type's id in the running kernel. */
	struct unix_skb_parms *said =
		bpf_rdonly_cast(&kernel->cb, __builtin_btf_type_id(*(struct unix_skb_parms *)0, 1));
	struct task_struct *task = bpf_get_current_task_btf();

	message->total = packet->len;
	message->flags = said->fp ? HAD_DESCRIPTORS : 0;
	if (said->pid) {
		message->pid = said->pid->numbers[0].nr;
		message->uid = said->uid.val;
		message->gid = said->gid.val;
	} else {
		message->pid = task->tgid;
		message->uid = task->cred->uid.val;
		message->gid = task->cred->gid.val;
	}
	message->missed = __sync_lock_test_and_set(&missed, 0);
}

/* Copies a message of at most `room` bytes, a constant: the kernel reserves no other. */
#define COPY(room)                                                                                 \
	do {                                                                                       \
		struct message *message =                                                          \
			bpf_ringbuf_reserve(&ring, sizeof(struct message) + (room), 0);            \
		if (!message) {                                                                    \
			__sync_fetch_and_add(&missed, 1);                                          \
			return WHOLE;                                                              \
		}                                                                                  \
		fill(packet, message);                                                             \
		message->length = length;                                                          \
		if (length > 0 && length <= (room) &&                                              \
		    bpf_skb_load_bytes(packet, 0, message->bytes, length))                         \
			message->length = 0;                                                       \
		bpf_ringbuf_submit(message, wake());                                                    \
		return WHOLE;                                                                      \
	} while (0)

enum { WHOLE = -1 };

SEC("socket")
int hs_observe(struct __sk_buff *packet)
{
	__u64 length = packet->len;

	if (length <= 256)
		COPY(256);
	if (length <= 2048)
		COPY(2048);
	if (length <= 16384)
		COPY(16384);
	if (length <= 65536)
		COPY(65536);
	if (length > LARGEST)
		length = LARGEST;
	COPY(LARGEST);
}

char licence[] SEC("license") = "Dual MIT/GPL";

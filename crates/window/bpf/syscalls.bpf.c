/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The system call tracer: one record for each call that a server's tasks have made.
 *
 * It hangs on the kernel's own tracepoints and stops nobody: where memory cannot be read or a record
 * has no room, the record says so and the call goes on. It knows hardly a call by name: what is
 * captured is in the map `rules`, which the loader fills from the table of system calls. */
#include "hs.h"
#include "syscalls.h"

#define noinline __attribute__((noinline))
#define inline_ static __attribute__((always_inline))
#define CO_RE __attribute__((preserve_access_index))

/* What of the kernel's own types is used; the loader finds the real offsets (CO-RE). */
#if defined(HS_X86_64)
struct pt_regs {
	unsigned long bp, bx, r10, r9, r8, cx, dx, si, di, orig_ax, sp;
} CO_RE;
struct thread_info {
	__u32 status;
} CO_RE;
#elif defined(HS_AARCH64)
struct pt_regs {
	__u64 regs[31];
	__u64 orig_x0;
	__s32 syscallno;
} CO_RE;
struct thread_info {
	unsigned long flags;
} CO_RE;
#endif

struct qstr {
	__u64 hash_len;
	const unsigned char *name;
} CO_RE;
struct hlist_bl_node {
	struct hlist_bl_node **pprev;
} CO_RE;
struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct hlist_bl_node d_hash;
} CO_RE;
struct vfsmount {
	struct dentry *mnt_root;
} CO_RE;
struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
} CO_RE;
struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} CO_RE;
struct super_block {
	__u32 s_dev;
} CO_RE;
typedef struct {
	unsigned int val;
} kid_t;
struct inode {
	unsigned short i_mode;
	kid_t i_uid;
	kid_t i_gid;
	__u32 i_rdev;
	struct super_block *i_sb;
	unsigned long i_ino;
} CO_RE;
struct file {
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
} CO_RE;
struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} CO_RE;
struct files_struct {
	struct fdtable *fdt;
} CO_RE;
struct fs_struct {
	struct path root;
	struct path pwd;
} CO_RE;
struct mm_struct {
	struct file *exe_file;
} CO_RE;
struct cred {
	kid_t uid, gid, suid, sgid, euid, egid, fsuid, fsgid;
} CO_RE;
struct ns_common {
	unsigned int inum;
} CO_RE;
struct pid_namespace {
	struct ns_common ns;
} CO_RE;
struct upid {
	int nr;
	struct pid_namespace *ns;
} CO_RE;
struct pid {
	unsigned int level;
	struct upid numbers[1];
} CO_RE;
typedef struct {
	int counter;
} atomic_t;
struct signal_struct {
	atomic_t live;
} CO_RE;
struct kernfs_node {
	__u64 id;
} CO_RE;
struct cgroup {
	struct kernfs_node *kn;
} CO_RE;
struct css_set {
	struct cgroup *dfl_cgrp;
} CO_RE;
struct list_head {
	struct list_head *next;
} CO_RE;
struct task_struct {
	struct thread_info thread_info;
	int pid;
	int tgid;
	struct pid *thread_pid;
	struct signal_struct *signal;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	const struct cred *cred;
	char comm[16];
	struct fs_struct *fs;
	struct files_struct *files;
	struct mm_struct *mm;
	struct css_set *cgroups;
	int exit_code;
	kid_t loginuid;
	unsigned int sessionid;
} CO_RE;
struct in6_addr_ {
	__u8 bytes[16];
};
struct sock_common {
	__u32 skc_daddr;
	__u32 skc_rcv_saddr;
	__u16 skc_dport;
	__u16 skc_num;
	/* The former in one. */
	__u64 skc_addrpair;
	__u32 skc_portpair;
	unsigned short skc_family;
	struct in6_addr_ skc_v6_daddr;
	struct in6_addr_ skc_v6_rcv_saddr;
} CO_RE;
struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol;
} CO_RE;
struct unix_address {
	/* The address itself, a struct sockaddr_un, comes right after. */
	int len;
} CO_RE;
struct unix_sock {
	struct unix_address *addr;
	struct sock *peer;
} CO_RE;
struct socket {
	short type;
	struct sock *sk;
} CO_RE;

static long (*const probe_user)(void *to, __u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_user;
static long (*const probe_user_string)(void *to, __u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_user_str;
static long (*const probe_kernel)(void *to, __u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel;
static long (*const probe_kernel_string)(void *to, __u32 size, const void *from) =
	(void *)BPF_FUNC_probe_read_kernel_str;
static __u64 (*const now)(void) = (void *)BPF_FUNC_ktime_get_ns;
static __u32 (*const this_cpu)(void) = (void *)BPF_FUNC_get_smp_processor_id;
static struct task_struct *(*const this_task)(void) = (void *)BPF_FUNC_get_current_task_btf;
static void *(*const task_storage)(void *map, struct task_struct *task, void *value, __u64 flags) =
	(void *)BPF_FUNC_task_storage_get;
static __u64 (*const ancestor_cgroup)(int level) = (void *)BPF_FUNC_get_current_ancestor_cgroup_id;
static long (*const map_update)(void *map, const void *key, const void *value, __u64 flags) =
	(void *)BPF_FUNC_map_update_elem;
static long (*const map_delete)(void *map, const void *key) = (void *)BPF_FUNC_map_delete_elem;
static long (*const ring_output)(void *ring, void *data, __u64 size, __u64 flags) =
	(void *)BPF_FUNC_ringbuf_output;
static __u64 (*const ring_query)(void *ring, __u64 flags) = (void *)BPF_FUNC_ringbuf_query;

/* Gives a number a type of the kernel's to read it by; nothing but an instruction (Linux 6.2). */
extern void *bpf_rdonly_cast(const void *from, __u32 type) __ksym __attribute__((weak));

#define CAST(from) ((typeof(from))bpf_rdonly_cast(from, __builtin_btf_type_id(*(from), 1)))

/* Reads members of a kernel structure that `from` points at; what cannot be read is 0. The helper is
 * ten times as dear as the load that the cast allows. */
#define READ_BYTES(to, from, member) \
	probe_kernel(&(to), sizeof(to), __builtin_preserve_access_index(&(from)->member))
#define READ(to, from, member)                              \
	do {                                                \
		if (bpf_rdonly_cast)                        \
			(to) = CAST(from)->member;          \
		else                                        \
			READ_BYTES(to, from, member);       \
	} while (0)

/* Says to the verifier what the compiler knows already, and would leave out. */
#define BOUND(variable, mask)                                                                      \
	do {                                                                                       \
		__asm__ volatile("" : "+r"(variable));                                             \
		variable &= (mask);                                                                \
	} while (0)

/* Places in a processor's caches; powers of two. */
#define HS_SLOTS 64
#define HS_TOLD 1024

/* What is kept beside a traced task. */
struct state {
	/* The call that is under way; 0 time for none. */
	__u64 time;
	__u64 args[HS_ARGS];
	__u32 number;
	__u32 tid;
	__u16 marks;
	__u8 abi;
	__u8 spare;
	__u32 length;
	/* What was told of the task last. */
	__u64 cred;
	__u64 exe;
	__u64 comm[2];
	__u8 data[HS_INLINE];
};

/* A record that is being made. */
struct scratch {
	__u32 used;
	__u32 marks;
	__u8 bytes[sizeof(struct hs_call) + HS_DATA + 2 * HS_CHUNK + 64];
};

/* What each processor looks at before the maps that all share. */
struct caches {
	/* Whether a cgroup's tasks are traced: the settings' generation, doubled, plus 1 for yes. */
	struct {
		__u64 id;
		__u64 value;
	} groups[HS_SLOTS];
	/* Identities of files that have been told. */
	__u64 told[HS_TOLD];
	/* See plain(). */
	__u64 plain;
	/* Whether the reader has been woken since so few bytes waited that it need not be. */
	__u64 has_woken;
};

struct {
	HS_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	HS_INT(max_entries, 1);
	HS_TYPE(key, __u32);
	HS_TYPE(value, struct caches);
} caches SEC(".maps");

struct {
	HS_INT(type, BPF_MAP_TYPE_TASK_STORAGE);
	HS_INT(map_flags, BPF_F_NO_PREALLOC);
	HS_TYPE(key, int);
	HS_TYPE(value, struct state);
} states SEC(".maps");

struct {
	HS_INT(type, BPF_MAP_TYPE_RINGBUF);
	HS_INT(max_entries, 1 << 26);
} records SEC(".maps");

struct {
	HS_INT(type, BPF_MAP_TYPE_ARRAY);
	HS_INT(max_entries, 1);
	HS_INT(map_flags, BPF_F_MMAPABLE);
	HS_TYPE(key, __u32);
	HS_TYPE(value, struct hs_settings);
} settings SEC(".maps");

struct {
	HS_INT(type, BPF_MAP_TYPE_ARRAY);
	HS_INT(max_entries, HS_RULES);
	HS_TYPE(key, __u32);
	HS_TYPE(value, struct hs_call_rules);
} rules SEC(".maps");

/* Rules for arguments that depend on a command: of fcntl, ioctl, prctl, futex. */
struct {
	HS_INT(type, BPF_MAP_TYPE_HASH);
	HS_INT(max_entries, 1024);
	HS_TYPE(key, struct hs_command);
	HS_TYPE(value, struct hs_rule);
} commands SEC(".maps");

struct {
	HS_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	HS_INT(max_entries, 2);
	HS_TYPE(key, __u32);
	HS_TYPE(value, struct scratch);
} scratches SEC(".maps");

struct {
	HS_INT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	HS_INT(max_entries, 1);
	HS_TYPE(key, __u32);
	HS_TYPE(value, __u64);
} losses SEC(".maps");

struct {
	HS_INT(type, BPF_MAP_TYPE_HASH);
	HS_INT(max_entries, 65536);
	HS_TYPE(key, __u32);
	HS_TYPE(value, __u8);
} processes SEC(".maps");

/* Files that have been told of. */
struct {
	HS_INT(type, BPF_MAP_TYPE_LRU_HASH);
	HS_INT(max_entries, 65536);
	HS_TYPE(key, __u64);
	HS_TYPE(value, __u8);
} known SEC(".maps");

/* Set before loading: identities of files shall not tell kernel addresses. */
const volatile __u64 secret = 0;

inline_ struct hs_settings *the_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

inline_ struct scratch *the_scratch(__u32 which)
{
	return bpf_map_lookup_elem(&scratches, &which);
}

inline_ struct caches *the_caches(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&caches, &zero);
}

/* Whether the current task's cgroup is one of the settings' or below one of them. */
noinline int search_cgroup(void)
{
	struct hs_settings *wanted = the_settings();
	__u64 found = 0;
	int traced = 0;

	if (!wanted)
		return 0;
	for (int level = 0; level < 24; level++) {
		found = ancestor_cgroup(level);
		if (!found)
			break;
		for (int i = 0; i < HS_GROUPS; i++) {
			if (wanted->groups[i] == found)
				traced = 1;
			if (wanted->but[i] == found)
				traced = 0;
		}
	}
	return traced;
}

/* How deep PID namespaces can be nested (MAX_PID_NS_LEVEL). */
#define DEEPEST 32

/* The number of a task in the PID namespace with that inode number; 0 where it is not in it. */
static noinline int number_in(struct pid *pid, __u32 space)
{
	unsigned int level = 0;

	READ(level, pid, level);
	for (unsigned int i = 1; i < DEEPEST && i <= level; i++) {
		struct upid *numbers = __builtin_preserve_access_index(&pid->numbers[0]);
		struct pid_namespace *namespace = 0;
		__u32 inode = 0;
		int number = 0;

		READ(namespace, numbers + i, ns);
		READ(inode, namespace, ns.inum);
		if (inode != space)
			continue;
		READ(number, numbers + i, nr);
		return number;
	}
	return 0;
}

/* Whether the current task is traced for what it is itself, not for its cgroup. */
noinline int is_traced_itself(struct hs_settings *wanted)
{
	__u32 process = bpf_get_current_pid_tgid() >> 32;

	if (!wanted)
		return 0;
	if (wanted->by_process && bpf_map_lookup_elem(&processes, &process))
		return 1;
	return wanted->by_space && number_in(this_task()->thread_pid, wanted->space);
}

/* The agent may be in a cgroup with others. */
inline_ int is_agent(struct hs_settings *wanted)
{
	return wanted->agent && wanted->agent == bpf_get_current_pid_tgid() >> 32;
}

inline_ int is_traced(struct hs_settings *wanted)
{
	__u64 id = this_task()->cgroups->dfl_cgrp->kn->id, slot = id & (HS_SLOTS - 1), value;
	__u32 generation = wanted->generation;
	struct caches *cached = the_caches();

	if (!cached)
		return 0;
	BOUND(slot, HS_SLOTS - 1);
	value = cached->groups[slot].value;
	if (cached->groups[slot].id != id || value >> 1 != generation) {
		value = (__u64)generation * 2 + (search_cgroup() != 0);
		cached->groups[slot].id = id;
		cached->groups[slot].value = value;
	}
	if (value & 1)
		return !is_agent(wanted);
	if (wanted->by_process || wanted->by_space)
		return is_traced_itself(wanted);
	return 0;
}

inline_ int is_among(const __u32 *list, __u32 count, __u32 one, __u32 other)
{
	for (int i = 0; i < HS_WHO; i++)
		if (i < count && (list[i] == one || list[i] == other))
			return 1;
	return 0;
}

/* Whether readers want calls of other processes or users alone. */
noinline int is_left_out(struct hs_settings *wanted)
{
	struct task_struct *task = this_task();
	const struct cred *cred = task->cred;

	if (!wanted)
		return 1;
	if (wanted->uid_count &&
	    !is_among(wanted->uids, wanted->uid_count, cred->uid.val, cred->euid.val))
		return 1;
	if (!wanted->pid_count || is_among(wanted->pids, wanted->pid_count, task->pid, task->tgid))
		return 0;
	if (!wanted->has_space)
		return 1;
	return !is_among(wanted->pids, wanted->pid_count, number_in(task->thread_pid, wanted->space),
			 number_in(task->group_leader->thread_pid, wanted->space));
}

/* Asked last: few readers say so. */
inline_ int is_of_others(struct hs_settings *wanted)
{
	return (wanted->pid_count || wanted->uid_count) && is_left_out(wanted);
}

inline_ void begin(struct hs_head *head, int kind, __u32 length, __u64 time)
{
	__u64 ids = bpf_get_current_pid_tgid();

	head->length = length;
	head->kind = kind;
	head->abi = 0;
	head->marks = 0;
	head->time = time;
	head->pid = ids >> 32;
	head->tid = (__u32)ids;
}

/* Sends a record, and before it how many were lost on this processor. */
noinline int send(__u32 which, __u32 length)
{
	struct scratch *scratch = the_scratch(which & 1);
	struct hs_settings *wanted = the_settings();
	struct caches *cached = the_caches();
	__u32 zero = 0;
	__u64 *lost = bpf_map_lookup_elem(&losses, &zero);
	__u64 flags = BPF_RB_NO_WAKEUP;

	if (!scratch || !wanted || !lost || !cached)
		return 0;
	if (length > sizeof(scratch->bytes))
		return 0;
	if (*lost) {
		struct hs_lost record = {};

		begin(&record.head, HS_LOST, sizeof(record), now());
		record.head.pid = 0;
		record.head.tid = this_cpu();
		record.count = *lost;
		if (!ring_output(&records, &record, sizeof(record), BPF_RB_NO_WAKEUP))
			*lost = 0;
	}
	if (ring_query(&records, BPF_RB_AVAIL_DATA) <= wanted->wake) {
		cached->has_woken = 0;
	} else if (!cached->has_woken) {
		/* Once: it takes longer than all else here, and the reader looks again by itself. */
		cached->has_woken = 1;
		flags = BPF_RB_FORCE_WAKEUP;
	}
	if (ring_output(&records, scratch->bytes, length, flags)) {
		__sync_fetch_and_add(lost, 1);
		return -1;
	}
	return 0;
}

/* Where data come from; VALUE: the eight bytes are `from` itself. */
enum { USER = 0, USER_STRING = 1, VALUE = 2 };

/* Adds an item to the call's record; `tag` is its first four bytes. Returns how many bytes of data
 * it has, negative where they could not be read. */
noinline int append(__u64 from, __u32 length, __u32 tag, __u32 kind)
{
	struct scratch *scratch = the_scratch(0);
	struct hs_item *item;
	__u32 used;
	long got;

	if (!scratch)
		return -1;
	used = scratch->used;
	if (used > sizeof(struct hs_call) + HS_DATA) {
		scratch->marks |= HS_SHORTENED;
		return -1;
	}
	item = (struct hs_item *)(scratch->bytes + used);
	if (length > HS_CHUNK) {
		length = HS_CHUNK;
		tag |= HS_MORE << 16;
	}
	BOUND(length, 2 * HS_CHUNK - 1);
	if (kind == USER_STRING) {
		got = probe_user_string(scratch->bytes + used + sizeof(*item), length, (void *)from);
		if (got > 0 && got == length)
			tag |= HS_MORE << 16;
		if (got > 0)
			got--;
	} else if (kind == VALUE) {
		*(__u64 *)(scratch->bytes + used + sizeof(*item)) = from;
		got = sizeof(from);
	} else {
		got = length ? probe_user(scratch->bytes + used + sizeof(*item), length, (void *)from) : 0;
		got = got ? -1 : (long)length;
	}
	if (got < 0 || got > HS_CHUNK) {
		tag |= HS_FAULT << 16;
		got = -1;
	}
	*(__u32 *)item = tag;
	item->length = got < 0 ? 0 : (__u32)got;
	scratch->used = (used + sizeof(*item) + item->length + 7) & ~7U;
	return got;
}

inline_ __u32 tag_of(__u32 arg, __u32 part, __u32 marks, __u32 index)
{
	return arg | part << 8 | marks << 16 | index << 24;
}

/* One pointer of a vector of pointers of `width` bytes, 4 or 8. */
inline_ long pointer_at(__u64 vector, __u32 index, __u32 width, __u64 *pointer)
{
	*pointer = 0;
	if (width == 4)
		return probe_user(pointer, 4, (void *)(vector + index * 4));
	return probe_user(pointer, 8, (void *)(vector + index * 8));
}

/* How many more there are in a vector that ends with a null pointer. */
noinline int count_more(__u64 vector, __u32 width)
{
	for (int i = 0; i < 1024; i++) {
		__u64 string;

		if (pointer_at(vector, i, width, &string) || !string)
			return i;
	}
	return 1024;
}

/* The strings of a vector that ends with a null pointer; of those that are too many, the number. */
noinline int append_strings(__u64 vector, __u32 arg, __u32 marks, __u32 most, __u32 width)
{
	for (int i = 0; i < HS_ARGV; i++) {
		__u64 string;

		if (pointer_at(vector, i, width, &string)) {
			append(0, 8, tag_of(arg, HS_ELEMENT, marks | HS_FAULT, i), USER);
			return i ? 0 : -1;
		}
		if (!string)
			return 0;
		append(string, most, tag_of(arg, HS_ELEMENT, marks, i), USER_STRING);
	}
	append(count_more(vector + HS_ARGV * width, width), 8,
	       tag_of(arg, HS_ELEMENT, marks | HS_MORE, HS_ARGV), VALUE);
	return 0;
}

/* How many directory entries there are in so many bytes. */
noinline int count_entries(__u64 from, __u64 size)
{
	__u64 at = 0;

	for (int i = 0; i < 2048; i++) {
		__u16 length = 0;

		if (at >= size || probe_user(&length, sizeof(length), (void *)(from + at + 16)) ||
		    !length)
			return i;
		at += length;
	}
	return 2048;
}

struct vector {
	__u64 base;
	__u64 length;
};

/* An I/O vector's elements, and of what they point at up to `most` bytes. */
noinline int append_vector(__u64 vector, __u64 count_and_most, __u32 arg, __u32 marks, __u64 total)
{
	__u32 count = count_and_most >> 32;
	__u32 most = (__u32)count_and_most;
	__u32 shown = count > HS_IOV ? HS_IOV : count;

	if (append(vector, shown * sizeof(struct vector),
		   tag_of(arg, HS_IOV_ARRAY, marks | (count > HS_IOV ? HS_MORE : 0), 0), USER) < 0)
		return -1;
	for (int i = 0; i < HS_IOV; i++) {
		struct vector one = {};
		__u32 more = 0;

		if (i >= shown || !total || !most)
			break;
		if (probe_user(&one, sizeof(one), (void *)(vector + i * sizeof(one))))
			break;
		if (one.length > total)
			one.length = total;
		total -= one.length;
		if (one.length > most) {
			one.length = most;
			more = HS_MORE;
		}
		most -= one.length;
		append(one.base, one.length, tag_of(arg, HS_IOV_DATA, marks | more, i), USER);
	}
	return 0;
}

struct message {
	__u64 name;
	__u32 name_length;
	__u32 pad;
	__u64 vector;
	__u64 count;
	__u64 control;
	__u64 control_length;
	__u32 flags;
	__u32 pad2;
};

noinline int append_message(__u64 from, __u32 arg, __u32 marks, __u32 most, __u64 total)
{
	struct message message = {};
	__u64 count;

	if (probe_user(&message, sizeof(message), (void *)from))
		return append(0, 8, tag_of(arg, HS_BYTES, marks | HS_FAULT, 0), USER);
	append(from, sizeof(message), tag_of(arg, HS_BYTES, marks, 0), USER);
	if (message.name && message.name_length)
		append(message.name, message.name_length > 128 ? 128 : message.name_length,
		       tag_of(arg, HS_NAME, marks, 0), USER);
	if (message.control && message.control_length)
		append(message.control, message.control_length > 256 ? 256 : message.control_length,
		       tag_of(arg, HS_CONTROL, marks, 0), USER);
	count = message.count > 0xffff ? 0xffff : message.count;
	if (message.vector && count)
		append_vector(message.vector, count << 32 | most, arg, marks, total);
	return 0;
}

/* One argument of the call; 0 where there is none of that number. */
inline_ __u64 argument(struct state *state, __u64 index)
{
	__asm__ volatile("" : "+r"(index));
	return index < HS_ARGS ? state->args[index] : 0;
}

/* What one rule says of one argument. `when` is 0 before the call, HS_AT_EXIT or HS_OUT after it.
 * Returns a negative number where memory could not be read. */
noinline int capture(struct state *state, __u32 arg, __u32 rule, __u32 when, __s64 result)
{
	struct hs_settings *wanted = the_settings();
	__u32 how = rule & 0xff, length = rule >> 16, buffer, string, tag;
	__u64 value, size = 0, total = ~0ULL;

	if (!wanted || !state)
		return 0;
	value = argument(state, arg);
	if (!value)
		return 0;
	buffer = wanted->buffer;
	string = wanted->string;
	if (string < 2 || string > HS_CHUNK)
		string = HS_CHUNK;
	tag = tag_of(arg, HS_BYTES, when, 0);
	switch (how) {
	case HS_STRING:
		return append(value, string, tag, USER_STRING);
	case HS_STRINGS:
		return append_strings(value, arg, when, string, length == 4 ? 4 : 8);
	case HS_FIXED:
		return append(value, length, tag, USER);
	case HS_BUFFER:
		/* What is before is in the upper bits, the size's argument in the lower. */
		size = argument(state, length & 7);
		if (size < HS_CHUNK)
			size += length >> 3;
		break;
	case HS_ARRAY:
		/* The size of an element is in the upper bits, the count's argument in the lower. */
		size = (argument(state, length & 7) & 0xffff) * (length >> 3);
		if (size > 1024) {
			size = 1024 / (length >> 3 ? length >> 3 : 1) * (length >> 3);
			tag |= HS_MORE << 16;
		}
		return append(value, size, tag, USER);
	case HS_RESULT:
		size = result > 0 ? result + length : 0;
		break;
	case HS_ENTRIES:
		size = result > 0 ? result : 0;
		append(count_entries(value, size), sizeof(__u64), tag_of(arg, HS_COUNT, when, 0), VALUE);
		break;
	case HS_RESULT_ARRAY:
		size = (result > 0 ? result & 0xffff : 0) * length;
		if (size > 1024) {
			size = 1024 / (length ? length : 1) * length;
			tag |= HS_MORE << 16;
		}
		return append(value, size, tag, USER);
	case HS_BITS:
		size = ((argument(state, length) & 0x7ff) + 63) / 64 * 8;
		return append(value, size > 128 ? 128 : size, tag, USER);
	case HS_DESCRIPTORS:
		return append(value, length * sizeof(__u32), tag, USER);
	case HS_COUNTED: {
		__u32 counted = 0;

		probe_user(&counted, sizeof(counted), (void *)argument(state, length));
		return append(value, counted > 128 ? 128 : counted, tag, USER);
	}
	case HS_VECTOR:
		size = argument(state, length) & 0xffff;
		return append_vector(value, size << 32 | buffer, arg, when, total);
	case HS_RESULT_VECTOR:
		size = argument(state, length) & 0xffff;
		return append_vector(value, size << 32 | buffer, arg, when, result > 0 ? result : 0);
	case HS_MESSAGE:
		total = when & HS_OUT ? (result > 0 ? result : 0) : total;
		return append_message(value, arg, when, buffer, total);
	default:
		return 0;
	}
	if (size > buffer) {
		size = buffer;
		tag |= HS_MORE << 16;
	}
	return append(value, size, tag, USER);
}

inline_ struct file *file_of(struct task_struct *task, __u32 number)
{
	struct files_struct *files = task->files;
	struct fdtable *table;
	struct file **slots;
	struct file *file = 0;

	if (!files)
		return 0;
	table = files->fdt;
	if (!table || number >= table->max_fds)
		return 0;
	slots = table->fd;
	/* A slot is a pointer; of the kernel's types, a list's head begins with one. */
	if (bpf_rdonly_cast)
		file = (struct file *)CAST((struct list_head *)(slots + number))->next;
	else
		probe_kernel(&file, sizeof(file), slots + number);
	return file;
}

inline_ __u64 mixed(__u64 a, __u64 b)
{
	a ^= b * 0x9e3779b97f4a7c15ULL;
	a ^= a >> 32;
	a *= 0xd6e8feb86659fd93ULL;
	a ^= a >> 32;
	a *= 0xd6e8feb86659fd93ULL;
	return a ^ a >> 32;
}

inline_ struct sock *sock_of(struct file *file, struct socket **socket)
{
	struct sock *sock = 0;
	void *data = 0;

	READ(data, file, private_data);
	*socket = data;
	if (data)
		READ(sock, *socket, sk);
	return sock;
}

#define IS(mode, kind) (((mode) & 0170000) == (kind))
#define SOCKET_MODE 0140000

/* A pointer as a number: the verifier allows no arithmetic on what it knows to be a pointer, but
 * forgets that in a map. */
inline_ __u64 plain(struct caches *cached, const void *pointer)
{
	volatile __u64 *place = &cached->plain;

	*place = (__u64)pointer;
	return *place;
}

/* What changes when a file gets another name, or none. */
inline_ __u64 name_of(struct caches *cached, struct dentry *dentry)
{
	struct dentry *parent = 0;
	struct hlist_bl_node **hashed = 0;
	__u64 hash = 0;

	READ(parent, dentry, d_parent);
	READ(hash, dentry, d_name.hash_len);
	READ(hashed, dentry, d_hash.pprev);
	return mixed(plain(cached, parent) ^ secret, hash + !plain(cached, hashed));
}

/* The identity of an open file under its name; of a connected socket, another one for each connection. */
inline_ __u64 identity(struct caches *cached, struct file *file)
{
	struct inode *inode = 0;
	unsigned long number = 0;
	unsigned short mode = 0;
	__u64 id;

	READ(inode, file, f_inode);
	if (!inode)
		return 0;
	READ(number, inode, i_ino);
	READ(mode, inode, i_mode);
	id = mixed(plain(cached, file) ^ secret,
		   mixed(plain(cached, inode) ^ secret, number ^ (__u64)mode << 48));
	if (IS(mode, SOCKET_MODE)) {
		struct socket *socket;
		struct sock *sock = sock_of(file, &socket);
		__u64 address = 0;
		__u32 ports = 0;

		if (sock) {
			/* Linux keeps the addresses in one word, and so the ports. */
			READ(address, sock, __sk_common.skc_addrpair);
			READ(ports, sock, __sk_common.skc_portpair);
			id = mixed(id, mixed(address, ports));
		}
	} else {
		struct dentry *dentry = 0;

		READ(dentry, file, f_path.dentry);
		if (dentry)
			id = mixed(id, name_of(cached, dentry));
	}
	return id ? id : 1;
}

/* A name of a Unix socket, after a byte with its length. */
inline_ void add_unix_name(struct scratch *scratch, struct sock *sock)
{
	struct unix_address *address = 0;
	__u32 used = scratch->used, taken;
	int length = 0;

	if (used > sizeof(struct hs_call) + HS_DATA)
		return;
	BOUND(used, HS_PLACES);
	if (sock)
		READ(address, (struct unix_sock *)sock, addr);
	if (address)
		READ(length, address, len);
	taken = (length - 2) & 127;
	if (length <= 2 || length > 110)
		taken = 0;
	scratch->bytes[used] = taken;
	if (taken)
		probe_kernel(scratch->bytes + used + 1, taken,
			     (char *)__builtin_preserve_access_index(&address->len) + sizeof(int) + 2);
	scratch->used = used + 1 + taken;
}

inline_ void add_socket(struct scratch *scratch, struct hs_file *record, struct file *file)
{
	struct socket *socket;
	struct sock *sock = sock_of(file, &socket);
	struct sock *peer = 0;
	short type = 0;
	__u16 port = 0;

	if (!sock)
		return;
	READ(type, socket, type);
	record->type = type;
	READ(record->family, sock, __sk_common.skc_family);
	READ(record->protocol, sock, sk_protocol);
	if (record->family == 2) {
		READ(*(__u32 *)record->local, sock, __sk_common.skc_rcv_saddr);
		READ(*(__u32 *)record->peer, sock, __sk_common.skc_daddr);
	} else if (record->family == 10) {
		READ_BYTES(record->local, sock, __sk_common.skc_v6_rcv_saddr);
		READ_BYTES(record->peer, sock, __sk_common.skc_v6_daddr);
	} else if (record->family == 1) {
		add_unix_name(scratch, sock);
		READ(peer, (struct unix_sock *)sock, peer);
		add_unix_name(scratch, peer);
	}
	if (record->family == 2 || record->family == 10) {
		READ(record->local_port, sock, __sk_common.skc_num);
		READ(port, sock, __sk_common.skc_dport);
		record->peer_port = __builtin_bswap16(port);
	}
}

/* Ends a file's record: what is left over from an earlier one must not be read as a name. */
inline_ __u32 end_file(struct scratch *scratch)
{
	__u32 used = scratch->used;
	__u64 zero = 0;

	if (used > sizeof(struct hs_call) + HS_DATA + 512)
		return 0;
	probe_kernel(scratch->bytes + used, sizeof(zero), &zero);
	return (used + 7) & ~7U;
}

enum { WHOLE = 1, DELETED = 2, OUTSIDE = 4 };

/* The components of a path, the last one first. */
static noinline int add_path(struct task_struct *task, struct scratch *scratch, struct dentry *dentry,
		      struct vfsmount *view)
{
	struct fs_struct *fs = task->fs;
	struct vfsmount *root_view = 0;
	struct dentry *root = 0;
	struct mount *mount;
	int found = 0;

	if (fs) {
		root = fs->root.dentry;
		root_view = fs->root.mnt;
	}
	for (int i = 0; i < HS_DEPTH; i++) {
		struct dentry *parent = 0, *top = 0;
		const unsigned char *name = 0;
		__u32 used = scratch->used;
		long length;

		if (dentry == root && view == root_view)
			return found | WHOLE;
		READ(top, view, mnt_root);
		READ(parent, dentry, d_parent);
		mount = (void *)view -
			__builtin_preserve_field_info(((struct mount *)0)->mnt, 0);
		if (dentry == top) {
			struct mount *above = 0;

			READ(above, mount, mnt_parent);
			if (!above || above == mount) {
				if (parent == dentry && i)
					return found | WHOLE | OUTSIDE;
			} else {
				READ(dentry, mount, mnt_mountpoint);
				view = __builtin_preserve_access_index(&above->mnt);
				continue;
			}
		}
		if (used > sizeof(struct hs_call) + HS_DATA)
			return found;
		READ(name, dentry, d_name.name);
		length = probe_kernel_string(scratch->bytes + used + 1, 256, name);
		if (length < 1)
			return found;
		scratch->bytes[used] = length - 1;
		scratch->used = used + length;
		if (!i) {
			struct hlist_bl_node **hashed = 0;

			READ(hashed, dentry, d_hash.pprev);
			if (!hashed)
				found |= DELETED;
		}
		if (parent == dentry || !parent)
			return found;
		dentry = parent;
	}
	return found;
}

/* Whether a file has been told. */
inline_ int is_told(struct caches *cached, __u64 id)
{
	__u64 slot = id & (HS_TOLD - 1);

	BOUND(slot, HS_TOLD - 1);
	if (cached->told[slot] == id)
		return 1;
	if (!bpf_map_lookup_elem(&known, &id))
		return 0;
	cached->told[slot] = id;
	return 1;
}

/* Tells of a file, unless that has been done. Returns its identity. A function that is checked once and
 * by itself takes no pointer into the kernel, but a number will do. */
noinline __u64 tell_file(__u64 pointer)
{
	struct task_struct *task = this_task();
	struct file *file = (struct file *)pointer;
	struct caches *cached = the_caches();
	struct scratch *scratch;
	struct hs_file *record;
	struct super_block *super = 0;
	struct vfsmount *view = 0;
	struct dentry *dentry = 0;
	struct inode *inode = 0;
	unsigned long number = 0;
	unsigned short mode = 0;
	__u8 yes = 1;
	__u32 length;
	__u64 id;

	if (!pointer || !cached)
		return 0;
	id = identity(cached, file);
	if (!id || is_told(cached, id))
		return id;
	scratch = the_scratch(1);
	if (!scratch)
		return 0;
	record = (struct hs_file *)scratch->bytes;
	__builtin_memset(record, 0, sizeof(*record));
	scratch->used = sizeof(*record);
	READ(inode, file, f_inode);
	READ(number, inode, i_ino);
	READ(mode, inode, i_mode);
	READ(super, inode, i_sb);
	if (super)
		READ(record->device, super, s_dev);
	record->id = id;
	record->inode = number;
	record->mode = mode;
	READ(record->uid, inode, i_uid.val);
	READ(record->gid, inode, i_gid.val);
	READ(record->special, inode, i_rdev);
	if (IS(mode, SOCKET_MODE)) {
		add_socket(scratch, record, file);
	} else {
		READ(dentry, file, f_path.dentry);
		READ(view, file, f_path.mnt);
		if (dentry && view)
			record->whole = add_path(task, scratch, dentry, view);
	}
	length = end_file(scratch);
	begin(&record->head, HS_FILE, length, now());
	if (!send(1, length))
		map_update(&known, &id, &yes, BPF_ANY);
	return id;
}

/* The file of one of the task's descriptors. */
noinline __u64 tell_descriptor(__u32 number)
{
	struct caches *cached = the_caches();

	return cached ? tell_file(plain(cached, file_of(this_task(), number))) : 0;
}

/* The task's program. */
noinline __u64 tell_program(void)
{
	struct task_struct *task = this_task();
	struct caches *cached = the_caches();

	if (!cached || !task->mm)
		return 0;
	return tell_file(plain(cached, task->mm->exe_file));
}

/* The task's working directory, which is no open file. */
noinline __u64 tell_directory(void)
{
	struct task_struct *task = this_task();
	struct caches *cached = the_caches();
	struct fs_struct *fs = task->fs;
	struct scratch *scratch;
	struct hs_file *record;
	struct vfsmount *view;
	struct dentry *dentry;
	__u8 yes = 1;
	__u32 length;
	__u64 id;

	if (!fs || !cached)
		return 0;
	dentry = fs->pwd.dentry;
	view = fs->pwd.mnt;
	if (!dentry || !view)
		return 0;
	id = mixed(mixed(plain(cached, dentry) ^ secret, plain(cached, view) ^ secret),
		   name_of(cached, dentry));
	if (is_told(cached, id))
		return id;
	scratch = the_scratch(1);
	if (!scratch)
		return 0;
	record = (struct hs_file *)scratch->bytes;
	__builtin_memset(record, 0, sizeof(*record));
	scratch->used = sizeof(*record);
	record->id = id;
	record->mode = 040000;
	record->whole = add_path(task, scratch, dentry, view);
	length = end_file(scratch);
	begin(&record->head, HS_FILE, length, now());
	if (!send(1, length))
		map_update(&known, &id, &yes, BPF_ANY);
	return id;
}

/* Adds a file's identity to the call's record. */
inline_ void append_id(__u64 id, __u32 arg, __u32 part, __u32 marks)
{
	if (id)
		append(id, sizeof(id), tag_of(arg, part, marks, 0), VALUE);
}

/* Adds the files of two descriptors that a call has written. */
inline_ void append_two(__u64 from, __u32 arg)
{
	__u32 numbers[2] = {};

	if (probe_user(numbers, sizeof(numbers), (void *)from))
		return;
	for (int i = 0; i < 2; i++) {
		__u64 id = tell_descriptor(numbers[i]);

		if (id)
			append(id, sizeof(id), tag_of(arg, HS_FILE_ID, HS_OUT, i), VALUE);
	}
}

/* Tells who the task is, where that has changed. */
inline_ void tell_task(struct task_struct *task, struct state *state)
{
	const struct cred *cred = task->cred;
	struct hs_settings *wanted = the_settings();
	struct hs_task record;
	struct file *exe = 0;
	__u64 comm[2];

	__builtin_memcpy(comm, task->comm, sizeof(comm));
	if (task->mm)
		exe = task->mm->exe_file;
	if (state->cred == (__u64)cred && state->exe == (__u64)exe && state->comm[0] == comm[0] &&
	    state->comm[1] == comm[1])
		return;
	__builtin_memset(&record, 0, sizeof(record));
	__builtin_memcpy(record.comm, comm, sizeof(record.comm));
	begin(&record.head, HS_TASK, sizeof(record), now());
	record.parent = task->real_parent->tgid;
	record.uid = cred->uid.val;
	record.gid = cred->gid.val;
	record.euid = cred->euid.val;
	record.egid = cred->egid.val;
	record.suid = cred->suid.val;
	record.sgid = cred->sgid.val;
	record.fsuid = cred->fsuid.val;
	record.fsgid = cred->fsgid.val;
	record.login_uid = ~0U;
	record.session = ~0U;
	if (__builtin_preserve_field_info(task->loginuid, 2))
		record.login_uid = task->loginuid.val;
	if (__builtin_preserve_field_info(task->sessionid, 2))
		record.session = task->sessionid;
	record.exe = tell_program();
	if (wanted && wanted->has_space) {
		record.own_pid = number_in(task->group_leader->thread_pid, wanted->space);
		record.own_tid = number_in(task->thread_pid, wanted->space);
	}
	if (ring_output(&records, &record, sizeof(record), BPF_RB_NO_WAKEUP)) {
		__u32 zero = 0;
		__u64 *lost = bpf_map_lookup_elem(&losses, &zero);

		if (lost)
			__sync_fetch_and_add(lost, 1);
		return;
	}
	state->cred = (__u64)cred;
	state->exe = (__u64)exe;
	state->comm[0] = comm[0];
	state->comm[1] = comm[1];
}

inline_ void read_arguments(struct state *state, struct pt_regs *regs)
{
#if defined(HS_X86_64)
	if (state->abi == HS_COMPAT) {
		state->args[0] = (__u32)regs->bx;
		state->args[1] = (__u32)regs->cx;
		state->args[2] = (__u32)regs->dx;
		state->args[3] = (__u32)regs->si;
		state->args[4] = (__u32)regs->di;
		state->args[5] = (__u32)regs->bp;
		return;
	}
	state->args[0] = regs->di;
	state->args[1] = regs->si;
	state->args[2] = regs->dx;
	state->args[3] = regs->r10;
	state->args[4] = regs->r8;
	state->args[5] = regs->r9;
#elif defined(HS_AARCH64)
	state->args[0] = regs->orig_x0;
	state->args[1] = regs->regs[1];
	state->args[2] = regs->regs[2];
	state->args[3] = regs->regs[3];
	state->args[4] = regs->regs[4];
	state->args[5] = regs->regs[5];
#endif
}

/* Which convention the call came by; takes what is not part of the number out of it. */
inline_ __u8 abi_of(struct task_struct *task, __u32 *number)
{
#if defined(HS_X86_64)
	/* TS_COMPAT, arch/x86/include/asm/thread_info.h */
	if (task->thread_info.status & 2)
		return HS_COMPAT;
	if (*number & 0x40000000) {
		*number &= ~0x40000000U;
		return HS_X32;
	}
#elif defined(HS_AARCH64)
	/* TIF_32BIT, arch/arm64/include/asm/thread_info.h */
	if (task->thread_info.flags & 1UL << 22)
		return HS_COMPAT;
#endif
	return HS_NATIVE;
}

inline_ int is_wanted(struct hs_settings *wanted, __u8 abi, __u32 number)
{
	__u32 word = number / 64;

	/* A number that no table has is always of interest. */
	if (word >= HS_CALLS / 64 || abi == HS_X32)
		return 1;
	BOUND(word, HS_CALLS / 64 - 1);
	if (abi == HS_COMPAT)
		return wanted->compat[word] >> (number & 63) & 1;
	return wanted->native[word] >> (number & 63) & 1;
}

/* Whether no convention's call of this number is wanted. This is asked first, since it is cheap and all
 * that most calls cost. */
inline_ int is_out(struct hs_settings *wanted, __u64 number)
{
	__u32 word = (__u32)number / 64;

	if (word >= HS_CALLS / 64)
		return 0;
	BOUND(word, HS_CALLS / 64 - 1);
	return !((wanted->native[word] | wanted->compat[word]) >> (number & 63) & 1);
}

/* The number of the call that a task is in; negative in the middle of other things. */
inline_ __u32 number_of(struct pt_regs *regs)
{
#if defined(HS_X86_64)
	return (__u32)regs->orig_ax;
#elif defined(HS_AARCH64)
	return (__u32)regs->syscallno;
#endif
}

inline_ struct hs_call_rules *rules_of(__u8 abi, __u32 number)
{
	if (abi == HS_X32 || number >= HS_CALLS)
		return 0;
	/* There, what structures look like is different: rules are of what looks the same. */
	if (abi == HS_COMPAT)
		number += HS_CALLS;
	return bpf_map_lookup_elem(&rules, &number);
}

/* The rule for an argument that depends on a command; none where the command is not known. */
inline_ struct hs_rule rule_of(struct state *state, struct hs_rule rule)
{
	struct hs_rule none = {}, *found;
	struct hs_command key;

	if (rule.how != HS_COMMAND)
		return rule;
	key.number = state->number;
	key.command = (__u32)argument(state, rule.length);
	found = bpf_map_lookup_elem(&commands, &key);
	return found ? *found : none;
}

/* What is captured of all arguments at a call's entry. */
noinline int capture_entry(struct state *state, struct hs_call_rules *call)
{
	if (!state || !call)
		return 0;
	for (int i = 0; i < HS_ARGS; i++) {
		struct hs_rule rule = rule_of(state, call->args[i]);

		if (rule.how && rule.how != HS_DESCRIPTOR && rule.when & HS_IN)
			capture(state, i, rule.how | (__u32)rule.length << 16, 0, 0);
	}
	return 0;
}

/* What is captured after the call: what it has written, and what could not be read before. */
noinline int capture_exit(struct state *state, struct hs_call_rules *call, __u32 missing, __s64 result)
{
	if (!state || !call)
		return 0;
	for (int i = 0; i < HS_ARGS; i++) {
		struct hs_rule rule = rule_of(state, call->args[i]);

		if (!rule.how || rule.how == HS_DESCRIPTOR)
			continue;
		if (rule.when & HS_IN && missing >> i & 1)
			capture(state, i, rule.how | (__u32)rule.length << 16, HS_AT_EXIT, result);
		if (rule.when & HS_AFTER && (result >= 0 || rule.when & HS_ALWAYS))
			capture(state, i, rule.how | (__u32)rule.length << 16, HS_OUT, result);
	}
	return 0;
}

/* Which arguments' data could not be read: their items are there, and say so. */
inline_ __u32 missing_in(const __u8 *data, __u32 length)
{
	__u32 missing = 0, at = 0;

	for (int i = 0; i < 12; i++) {
		const struct hs_item *item = (const struct hs_item *)(data + at);

		if (at > HS_INLINE - sizeof(*item) || at >= length)
			break;
		if (item->marks & HS_FAULT)
			missing |= 1U << (item->arg & 7);
		at += (sizeof(*item) + (item->length & 0x1fff) + 7) & ~7U;
	}
	return missing;
}

/* Adds what a call's descriptors stand for at its entry: it may close them. */
inline_ void append_files_before(struct state *state, struct hs_call_rules *call)
{
	for (int i = 0; i < HS_ARGS; i++) {
		if (call->args[i].how != HS_DESCRIPTOR)
			continue;
		append_id(tell_descriptor((__u32)state->args[i]), i, HS_FILE_ID, 0);
	}
	if (call->flags & HS_NAMES_PATHS)
		append_id(tell_directory(), HS_ARGS, HS_CWD, 0);
}

SEC("tp_btf/sys_enter")
int hs_enter(__u64 *context)
{
	struct pt_regs *regs = (struct pt_regs *)context[0];
	__u32 number = (__u32)context[1];
	struct hs_settings *wanted = the_settings();
	struct hs_call_rules *call;
	struct task_struct *task;
	struct scratch *scratch;
	struct state *state;
	__u8 abi;

	if (!wanted || is_out(wanted, number) || !is_traced(wanted))
		return 0;
	task = this_task();
	abi = abi_of(task, &number);
	if (!is_wanted(wanted, abi, number) || is_of_others(wanted))
		return 0;
	state = task_storage(&states, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state)
		return 0;
	tell_task(task, state);
	state->time = now();
	state->number = number;
	state->abi = abi;
	state->marks = 0;
	state->length = 0;
	state->tid = (__u32)bpf_get_current_pid_tgid();
	read_arguments(state, regs);
	call = rules_of(abi, number);
#if defined(HS_X86_64)
	/* It has no argument but what a signal has left on the stack: uc_sigmask of struct ucontext. */
	if (call && call->flags & HS_RETURNS)
		state->args[0] = regs->sp + 296;
#endif
	if (!call || !(call->flags & (HS_HAS_IN | HS_NAMES_PATHS)))
		return 0;
	scratch = the_scratch(0);
	if (!scratch)
		return 0;
	scratch->used = sizeof(struct hs_call);
	scratch->marks = 0;
	if (wanted->files)
		append_files_before(state, call);
	capture_entry(state, call);
	{
		__u32 length = scratch->used - sizeof(struct hs_call);

		if (length < HS_INLINE) {
			BOUND(length, HS_INLINE - 1);
			probe_kernel(state->data, length, scratch->bytes + sizeof(struct hs_call));
			state->length = length;
			state->marks = scratch->marks;
			return 0;
		}
	}
	{
		struct hs_call *record = (struct hs_call *)scratch->bytes;
		__u32 length = scratch->used;

		begin(&record->head, HS_ENTRY, length, state->time);
		record->head.abi = abi;
		record->head.marks = scratch->marks;
		record->number = number;
		record->cpu = this_cpu();
		record->duration = 0;
		record->result = 0;
		__builtin_memcpy(record->args, state->args, sizeof(record->args));
		state->marks = send(0, length) ? HS_ENTRY_LOST : HS_HAS_ENTRY;
	}
	return 0;
}

/* Adds what descriptors stand for after the call: those that it gives, and those that it changes. */
inline_ void append_files(struct state *state, struct hs_call_rules *call, __s64 result)
{
	__u64 id;

	if (call->flags & HS_GIVES_FILE && result >= 0) {
		id = tell_descriptor((__u32)result);
		append_id(id, HS_ARGS, HS_FILE_ID, HS_OUT);
	}
	for (int i = 0; i < HS_ARGS; i++) {
		struct hs_rule rule = call->args[i];

		if (rule.how == HS_DESCRIPTOR && rule.when & HS_AFTER) {
			id = tell_descriptor((__u32)state->args[i]);
			append_id(id, i, HS_FILE_ID, HS_OUT);
		} else if (rule.how == HS_DESCRIPTORS && result >= 0) {
			append_two(state->args[i], i);
		}
	}
	if (call->flags & HS_EXECUTES)
		append_id(tell_program(), HS_ARGS, HS_EXE, HS_OUT);
}

/* Sends the record of a call that has ended. */
inline_ void end_call(struct state *state, __s64 result, __u16 marks)
{
	struct hs_settings *wanted = the_settings();
	struct scratch *scratch = the_scratch(0);
	struct hs_call_rules *call;
	struct hs_call *record;
	__u32 missing = 0, length;
	__u64 time = now();

	if (!scratch || !wanted)
		return;
	call = rules_of(state->abi, state->number);
	scratch->used = sizeof(struct hs_call);
	scratch->marks = 0;
	length = state->length;
	if (length && length < HS_INLINE) {
		BOUND(length, HS_INLINE - 1);
		probe_kernel(scratch->bytes + sizeof(struct hs_call), length, state->data);
		scratch->used = sizeof(struct hs_call) + length;
		missing = missing_in(state->data, length);
	}
	if (call) {
		if (missing || call->flags & HS_HAS_AFTER)
			capture_exit(state, call, missing, result);
		if (wanted->files)
			append_files(state, call, result);
	}
	length = scratch->used;
	record = (struct hs_call *)scratch->bytes;
	begin(&record->head, HS_CALL, length, state->time);
	record->head.abi = state->abi;
	record->head.marks = marks | state->marks | scratch->marks;
	record->head.tid = state->tid;
	record->number = state->number;
	record->cpu = this_cpu();
	record->duration = time - state->time;
	record->result = result;
	__builtin_memcpy(record->args, state->args, sizeof(record->args));
	send(0, length);
	state->time = 0;
	state->length = 0;
}

/* A program of another convention than the one that asked for it is given its own call's number. */
inline_ int is_execution(struct state *state)
{
	struct hs_call_rules *call = rules_of(state->abi, state->number);

	return call && call->flags & HS_EXECUTES;
}

SEC("tp_btf/sys_exit")
int hs_exit(__u64 *context)
{
	struct pt_regs *regs = (struct pt_regs *)context[0];
	__s64 result = (__s64)context[1];
	struct hs_settings *wanted = the_settings();
	__u32 number = number_of(regs);
	struct task_struct *task;
	struct state *state;
	__u16 marks = 0;

	if (!wanted || is_out(wanted, number))
		return 0;
	task = this_task();
	state = task_storage(&states, task, 0, 0);
	if (!state) {
		/* It is not traced, or in this call since before tracing began. */
		__u8 abi;

		if ((__s32)number < 0 || !is_traced(wanted))
			return 0;
		abi = abi_of(task, &number);
		if (!is_wanted(wanted, abi, number) || is_of_others(wanted))
			return 0;
		state = task_storage(&states, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!state)
			return 0;
		tell_task(task, state);
		state->time = now();
		state->number = number;
		state->abi = abi;
		state->tid = (__u32)bpf_get_current_pid_tgid();
		read_arguments(state, regs);
		marks = HS_UNDER_WAY;
	}
	if (!state->time)
		return 0;
	/* Another call, which was not wanted any more when it returned. */
	if ((__s32)number >= 0 && (number & ~0x40000000U) != state->number && !is_execution(state)) {
		state->time = 0;
		return 0;
	}
	if (wanted->failed_only && result >= 0) {
		state->time = 0;
		return 0;
	}
	end_call(state, result, marks);
	return 0;
}

/* A traced thread ends: the call that it is in does not return. */
SEC("tp_btf/sched_process_exit")
int hs_end(__u64 *context)
{
	struct task_struct *task = this_task();
	struct state *state = task_storage(&states, task, 0, 0);
	__u32 process = bpf_get_current_pid_tgid() >> 32;
	struct hs_settings *wanted = the_settings();
	struct hs_end record = {};

	/* Its first thread may end before the others, also when one of those executes a program. */
	if (!task->signal->live.counter)
		map_delete(&processes, &process);
	if (!state || !wanted)
		return 0;
	/* A call that was not wanted any more when it returned has left its time. */
	if (state->time && !is_out(wanted, state->number))
		end_call(state, 0, HS_NO_RETURN);
	begin(&record.head, HS_END, sizeof(record), now());
	record.status = task->exit_code;
	record.known = 1;
	ring_output(&records, &record, sizeof(record), BPF_RB_NO_WAKEUP);
	return 0;
}

/* Children of processes that are traced by their number are traced too. */
SEC("tp_btf/sched_process_fork")
int hs_fork(__u64 *context)
{
	struct task_struct *parent = (struct task_struct *)context[0];
	struct task_struct *child = (struct task_struct *)context[1];
	struct hs_settings *wanted = the_settings();
	__u32 from = parent->tgid, to = child->tgid;
	__u8 yes = 1;

	if (!wanted || !wanted->by_process || from == to)
		return 0;
	if (bpf_map_lookup_elem(&processes, &from))
		map_update(&processes, &to, &yes, BPF_ANY);
	return 0;
}

/* What is used of an io_uring request (include/linux/io_uring_types.h). */
struct io_cqe {
	__u64 user_data;
	int fd;
} __attribute__((preserve_access_index));
struct io_kiocb {
	__u8 opcode;
	__u32 flags;
	struct io_cqe cqe;
} __attribute__((preserve_access_index));

/* The operations that work on a descriptor: elsewhere the request has a former one's. */
static const __u64 of_descriptors = 0x3fc3cb064dc3277eULL;

/* A request that is submitted through a ring: as a call of a number that no call has, which does not
 * return. Loaded where the kernel has the hook. */
SEC("?tp_btf/io_uring_submit_req")
int hs_request(__u64 *context)
{
	struct io_kiocb *request = (struct io_kiocb *)context[0];
	struct hs_settings *wanted = the_settings();
	struct task_struct *task = this_task();
	struct scratch *scratch = the_scratch(0);
	struct hs_call *record;
	struct state *state;
	__u64 user_data = 0;
	__u32 flags = 0, fd = -1;
	__u8 opcode = 0;

	if (!wanted || !scratch || is_out(wanted, HS_REQUEST) || !is_traced(wanted))
		return 0;
	if (!is_wanted(wanted, HS_NATIVE, HS_REQUEST) || wanted->failed_only || is_of_others(wanted))
		return 0;
	state = task_storage(&states, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	if (!state)
		return 0;
	tell_task(task, state);
	READ(opcode, request, opcode);
	READ(flags, request, flags);
	READ(user_data, request, cqe.user_data);
	if (opcode < 64 && of_descriptors >> opcode & 1)
		READ(fd, request, cqe.fd);
	scratch->used = sizeof(struct hs_call);
	scratch->marks = 0;
	/* IOSQE_FIXED_FILE: then it is a place in a table of the ring's. */
	if (wanted->files && (__s32)fd >= 0 && !(flags & 1))
		append_id(tell_descriptor(fd), 1, HS_FILE_ID, 0);
	record = (struct hs_call *)scratch->bytes;
	begin(&record->head, HS_CALL, scratch->used, now());
	record->head.marks = HS_NO_RETURN;
	record->number = HS_REQUEST;
	record->cpu = this_cpu();
	record->duration = 0;
	record->result = 0;
	record->args[0] = opcode;
	record->args[1] = fd;
	record->args[2] = user_data;
	record->args[3] = flags & 0x7f;
	record->args[4] = 0;
	record->args[5] = 0;
	send(0, scratch->used);
	return 0;
}

char licence[] SEC("license") = "Dual MIT/GPL";

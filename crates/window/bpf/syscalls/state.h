/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The tracer's maps, and what is in them. */
#pragma once

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

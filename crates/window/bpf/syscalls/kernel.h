/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What of the kernel's own types and helpers the tracer uses. */
#pragma once

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

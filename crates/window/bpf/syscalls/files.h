/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Files and sockets: what they are, told once, and referred to by number afterwards. */
#pragma once

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

/* Begins a file's record. */
inline_ struct hs_file *begin_file(struct scratch *scratch, __u64 id)
{
	struct hs_file *record = (struct hs_file *)scratch->bytes;

	__builtin_memset(record, 0, sizeof(*record));
	scratch->used = sizeof(*record);
	record->id = id;
	return record;
}

/* Ends a file's record and sends it: what is left over from an earlier one must not be read as a name. */
inline_ void end_file(struct scratch *scratch, struct hs_file *record)
{
	__u32 used = scratch->used, length = 0;
	__u64 id = record->id, zero = 0;
	__u8 yes = 1;

	if (used <= sizeof(struct hs_call) + HS_DATA + 512) {
		probe_kernel(scratch->bytes + used, sizeof(zero), &zero);
		length = (used + 7) & ~7U;
	}
	begin(&record->head, HS_FILE, length, now());
	if (!send(1, length))
		map_update(&known, &id, &yes, BPF_ANY);
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
	__u64 id;

	if (!pointer || !cached)
		return 0;
	id = identity(cached, file);
	if (!id || is_told(cached, id))
		return id;
	scratch = the_scratch(1);
	if (!scratch)
		return 0;
	record = begin_file(scratch, id);
	READ(inode, file, f_inode);
	READ(number, inode, i_ino);
	READ(mode, inode, i_mode);
	READ(super, inode, i_sb);
	if (super)
		READ(record->device, super, s_dev);
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
	end_file(scratch, record);
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
	record = begin_file(scratch, id);
	record->mode = 040000;
	record->whole = add_path(task, scratch, dentry, view);
	end_file(scratch, record);
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

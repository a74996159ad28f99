/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Whose calls are traced. */
#pragma once

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

/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Who a task is, and the arguments that it has called with. */
#pragma once

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

/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The system call tracer: one record for each call that a server's tasks have made.
 *
 * It hangs on the kernel's own tracepoints and stops nobody: where memory cannot be read or a record
 * has no room, the record says so and the call goes on. It knows hardly a call by name: what is
 * captured is in the map `rules`, which the loader fills from the table of system calls. */
#include "hs.h"
#include "syscalls.h"
#include "syscalls/kernel.h"
#include "syscalls/state.h"
#include "syscalls/scope.h"
#include "syscalls/record.h"
#include "syscalls/capture.h"
#include "syscalls/files.h"
#include "syscalls/task.h"

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

/* What is kept of a task's call until it ends. */
inline_ struct state *begin_call(struct task_struct *task, struct pt_regs *regs, __u8 abi, __u32 number)
{
	struct state *state = task_storage(&states, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

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
	return state;
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
	state = begin_call(task, regs, abi, number);
	if (!state)
		return 0;
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
		state = begin_call(task, regs, abi, number);
		if (!state)
			return 0;
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

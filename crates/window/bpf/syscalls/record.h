/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Records: how they leave the kernel, and the items that they are made of. */
#pragma once

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

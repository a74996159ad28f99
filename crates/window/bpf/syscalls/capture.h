/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What is captured of one argument of a call. */
#pragma once

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

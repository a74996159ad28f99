/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What the system call tracer's program and its loader agree on: records, settings, capture rules.
 * The Rust side is crates/syscalls (records) and src/syscalls (settings, rules); a test compares
 * sizes. */
#ifndef HS_SYSCALLS_H
#define HS_SYSCALLS_H

#include <linux/types.h>

/* Numbers below this have rules; calls with higher ones are recorded without their data. */
#define HS_CALLS 512
#define HS_ARGS 6
/* Rules of the 32-bit convention come after the native ones. */
#define HS_RULES (2 * HS_CALLS)
/* Stands for a request through an io_uring; the last number with rules, which no call has. */
#define HS_REQUEST 511

/* The greatest part of one string or buffer that is captured, and of all of one call. */
#define HS_CHUNK 4096
/* So that where a record ends has 14 bits: that much every verifier understands. */
#define HS_DATA (HS_PLACES - (int)sizeof(struct hs_call))
#define HS_PLACES 0x3fff
/* Data of a call's entry that wait for its exit beside the task, instead of in a record before. */
#define HS_INLINE 256
/* Elements of an argument vector, of an I/O vector, components of a path. */
#define HS_ARGV 64
#define HS_IOV 8
#define HS_DEPTH 40

/* Which calling convention a call came by. */
enum hs_abi { HS_NATIVE = 0, HS_COMPAT = 1, HS_X32 = 2 };

/* Records. Each begins with a head, and its length is a multiple of 8. */
enum hs_kind {
	HS_CALL = 1,
	HS_ENTRY = 2,
	HS_TASK = 3,
	HS_FILE = 4,
	HS_END = 5,
	HS_LOST = 6,
};

enum hs_mark {
	/* It was under way when tracing began: its time, and data of its entry, are not known. */
	HS_UNDER_WAY = 1,
	/* It never returned. */
	HS_NO_RETURN = 2,
	/* Data of its entry were lost. */
	HS_ENTRY_LOST = 4,
	/* Not all of its data had room. */
	HS_SHORTENED = 8,
	/* An ENTRY record with the same thread came before. */
	HS_HAS_ENTRY = 16,
};

struct hs_head {
	__u32 length;
	__u8 kind;
	__u8 abi;
	__u16 marks;
	/* Nanoseconds of CLOCK_MONOTONIC. */
	__u64 time;
	__u32 pid;
	__u32 tid;
};

struct hs_call {
	struct hs_head head;
	__u32 number;
	__u32 cpu;
	__u64 duration;
	__s64 result;
	__u64 args[HS_ARGS];
	/* Items follow. */
};

/* One piece of data of a call; padded to 8 bytes. */
struct hs_item {
	__u8 arg;
	__u8 part;
	__u8 marks;
	__u8 index;
	__u32 length;
};

enum hs_part {
	/* The bytes that the argument points at. */
	HS_BYTES = 0,
	/* One string of a vector. */
	HS_ELEMENT = 1,
	/* The bytes of an I/O vector's element. */
	HS_IOV_DATA = 2,
	HS_NAME = 3,
	HS_IOV_ARRAY = 4,
	HS_CONTROL = 5,
	/* 8 bytes: a file's identity, as a FILE record announces it. */
	HS_FILE_ID = 6,
	/* The same, of the working directory (arg 6). */
	HS_CWD = 7,
	/* The same, of the program's file (arg 6). */
	HS_EXE = 8,
	/* 8 bytes: how many there are. */
	HS_COUNT = 9,
};

enum hs_item_mark {
	/* Read after the call, not at its entry. */
	HS_AT_EXIT = 1,
	/* There was more. */
	HS_MORE = 2,
	/* The memory could not be read. */
	HS_FAULT = 4,
	/* What the call has written. */
	HS_OUT = 8,
};

/* Who a thread is; before its first call, and again when it has become another. */
struct hs_task {
	struct hs_head head;
	__u32 parent;
	__u32 uid, gid, euid, egid, suid, sgid, fsuid, fsgid;
	__u32 login_uid, session;
	__u32 zero;
	char comm[16];
	__u64 exe;
	/* Its numbers in the server's own PID namespace; 0 where it is not in that, or there is none. */
	__u32 own_pid, own_tid;
};

/* A file that a call refers to, once; the path's components follow, the last one first, each after
 * a byte with its length, or for a socket its addresses. */
struct hs_file {
	struct hs_head head;
	__u64 id;
	__u64 inode;
	__u32 device;
	__u32 mode;
	/* Of a socket; else 0. */
	__u16 family;
	__u16 type;
	__u16 protocol;
	__u16 local_port;
	__u16 peer_port;
	__u16 zero;
	/* Whether the path is whole. */
	__u32 whole;
	__u8 local[16];
	__u8 peer[16];
	/* Its owner and group, and of a device file, the device. */
	__u32 uid, gid;
	__u32 special;
	__u32 zero2;
};

struct hs_lost {
	struct hs_head head;
	__u64 count;
};

/* The end of a thread: how, as wait(2) tells it; the upper half says that it is known. */
struct hs_end {
	struct hs_head head;
	__u32 status;
	__u32 known;
};

/* Why and how arguments are captured: one rule for each argument of each call. */
enum hs_how {
	HS_NOTHING = 0,
	HS_STRING = 1,
	/* `length` is an argument's number. */
	HS_BUFFER = 2,
	/* `length` is a size. */
	HS_FIXED = 3,
	/* `size` bytes for each of as many as the argument `length` says. */
	HS_ARRAY = 4,
	/* `length` is the size of a pointer. */
	HS_STRINGS = 5,
	HS_VECTOR = 6,
	HS_MESSAGE = 7,
	/* A buffer as long as the number that the argument `length` points at. */
	HS_COUNTED = 8,
	/* A descriptor, or a directory's descriptor: its file. */
	HS_DESCRIPTOR = 9,
	/* As HS_BUFFER and HS_VECTOR, as long as the result says. */
	HS_RESULT = 10,
	HS_RESULT_VECTOR = 11,
	/* As many elements as the result says, of `length` bytes each. */
	HS_RESULT_ARRAY = 12,
	/* Bits, as many as the argument `length` says, in words of 64. */
	HS_BITS = 13,
	/* As the map `commands` says for the value of the argument `length`. */
	HS_COMMAND = 14,
	/* `length` descriptors that the call has written, and their files. */
	HS_DESCRIPTORS = 15,
	/* As HS_RESULT, and how many directory entries that is. */
	HS_ENTRIES = 16,
};

/* HS_ALWAYS: after calls that failed, too. */
enum hs_when { HS_IN = 1, HS_AFTER = 2, HS_ALWAYS = 4 };

struct hs_rule {
	__u8 how;
	__u8 when;
	__u16 length;
};

enum hs_call_flag {
	/* The result is a descriptor. */
	HS_GIVES_FILE = 1,
	/* It names paths: the working directory belongs to it. */
	HS_NAMES_PATHS = 2,
	/* It gives another program. */
	HS_EXECUTES = 4,
	/* It ends the thread. */
	HS_ENDS = 8,
	/* There is an entry rule, an exit rule. */
	HS_HAS_IN = 16,
	HS_HAS_AFTER = 32,
	/* It returns from a signal's handler. */
	HS_RETURNS = 64,
};

/* What the map `commands` is asked by. */
struct hs_command {
	__u32 number;
	__u32 command;
};

struct hs_call_rules {
	struct hs_rule args[HS_ARGS];
	__u32 flags;
};

#define HS_GROUPS 16
/* How many processes, and users, recording can be limited to. */
#define HS_WHO 16

/* Written by the tracer, in memory that both share. */
struct hs_settings {
	/* cgroups whose tasks are traced, with those below; 0 for none. */
	__u64 groups[HS_GROUPS];
	/* cgroups whose tasks are not, though they are below those. */
	__u64 but[HS_GROUPS];
	/* Goes up whenever groups change. */
	__u32 generation;
	/* Whether thread groups in the map `processes` are traced too. */
	__u32 by_process;
	/* Up to how much of a string, and of other data, is captured; at most HS_CHUNK. */
	__u32 string;
	__u32 buffer;
	/* Whether descriptors' files are told. */
	__u32 files;
	/* How many bytes may wait until the reader is woken. */
	__u32 wake;
	/* Calls that are recorded: native numbers, and those of the 32-bit ABI. */
	__u64 native[HS_CALLS / 64];
	__u64 compat[HS_CALLS / 64];
	/* Only calls that failed. */
	__u32 failed_only;
	/* The inode number of the server's PID namespace, where it has one of its own. */
	__u32 has_space;
	__u32 space;
	/* Whether all in it are traced. */
	__u32 by_space;
	/* A process that is not traced for its cgroup; 0 for none. */
	__u32 agent;
	/* Only calls of one of these processes and threads, by any of their numbers, and of one of these
	 * users, real or effective; of all where the count is 0. */
	__u32 pid_count;
	__u32 uid_count;
	__u32 zero;
	__u32 pids[HS_WHO];
	__u32 uids[HS_WHO];
};

#endif

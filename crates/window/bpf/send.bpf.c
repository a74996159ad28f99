/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* Refuses sending on a marked packet socket as such, where the kernel lets BPF programs decide
 * (BPF LSM): then there is no moment in which a new interface could be sent on. */
#include "hs.h"

enum { AF_PACKET = 17, EPERM = 1 };

/* What of the kernel's own types is used; the loader finds the real offsets (CO-RE). */
struct sock_common {
	unsigned short skc_family;
} __attribute__((preserve_access_index));
struct sock {
	struct sock_common __sk_common;
	__u32 sk_mark;
} __attribute__((preserve_access_index));
struct socket {
	struct sock *sk;
} __attribute__((preserve_access_index));

/* int socket_sendmsg(struct socket *sock, struct msghdr *msg, int size), and what the programs
 * before have decided. */
SEC("lsm/socket_sendmsg")
int hs_send(__u64 *arguments)
{
	struct socket *socket = (struct socket *)arguments[0];
	int decided = (int)arguments[3];
	struct sock *sock = socket->sk;

	if (decided || !sock)
		return decided;
	if (sock->__sk_common.skc_family == AF_PACKET && sock->sk_mark == HS_MARK)
		return -EPERM;
	return 0;
}

char licence[] SEC("license") = "Dual MIT/GPL";

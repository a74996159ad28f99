//! The port guard's part of a server space's seccomp policy: the sockets that could go round it.

use libc as l;

use crate::packets::{Action, Cond, Rule, Test};

/// The bits of a socket's type that are not flags (`SOCK_TYPE_MASK`, include/linux/net.h).
const TYPE_MASK: u32 = 0xf;
/// The old way to a packet socket, which exists in every address family (packet(7)).
const SOCK_PACKET: i32 = 10;

const RAW: &str = "a raw socket sends and hears whatever it likes, by no port";
const OTHER: &str = "only streams and datagrams have ports that the guard knows";

const fn is(arg: u8, value: i32) -> Cond {
    Cond { arg, test: Test::Is(value.cast_unsigned()) }
}

const fn is_not(arg: u8, value: i32) -> Cond {
    Cond { arg, test: Test::IsNot(value.cast_unsigned()) }
}

const fn kind(value: i32) -> Cond {
    Cond { arg: 1, test: Test::Masked { mask: TYPE_MASK, value: value.cast_unsigned() } }
}

const fn refused(when: &'static [Cond], errno: i32, reason: &'static str) -> Rule {
    Rule { call: l::SYS_socket, when, action: Action::Errno(errno), reason }
}

const V4: Cond = is(0, l::AF_INET);
const V6: Cond = is(0, l::AF_INET6);

const RULES: &[Rule] = &[
    refused(&[is(0, l::AF_PACKET)], l::EPERM, "a packet socket hears the host's whole traffic"),
    refused(&[kind(SOCK_PACKET)], l::EPERM, "SOCK_PACKET makes a packet socket in any family"),
    refused(&[V4, kind(l::SOCK_RAW)], l::EPERM, RAW),
    refused(&[V6, kind(l::SOCK_RAW)], l::EPERM, RAW),
    refused(&[V4, kind(l::SOCK_RDM)], l::ESOCKTNOSUPPORT, OTHER),
    refused(&[V6, kind(l::SOCK_RDM)], l::ESOCKTNOSUPPORT, OTHER),
    refused(&[V4, kind(l::SOCK_SEQPACKET)], l::ESOCKTNOSUPPORT, OTHER),
    refused(&[V6, kind(l::SOCK_SEQPACKET)], l::ESOCKTNOSUPPORT, OTHER),
    refused(&[V4, kind(l::SOCK_DCCP)], l::ESOCKTNOSUPPORT, OTHER),
    refused(&[V6, kind(l::SOCK_DCCP)], l::ESOCKTNOSUPPORT, OTHER),
    refused(
        &[
            V4,
            is_not(2, 0),
            is_not(2, l::IPPROTO_TCP),
            is_not(2, l::IPPROTO_UDP),
            is_not(2, l::IPPROTO_ICMP),
        ],
        l::EPROTONOSUPPORT,
        "MPTCP, SMC, SCTP, DCCP, UDP-Lite and L2TP go by other hooks than TCP and UDP, or by none; \
         an ICMP datagram socket can only ping",
    ),
    refused(
        &[
            V6,
            is_not(2, 0),
            is_not(2, l::IPPROTO_TCP),
            is_not(2, l::IPPROTO_UDP),
            is_not(2, l::IPPROTO_ICMPV6),
        ],
        l::EPROTONOSUPPORT,
        "as for IPv4",
    ),
    refused(
        &[
            is_not(0, l::AF_UNIX),
            is_not(0, l::AF_INET),
            is_not(0, l::AF_INET6),
            is_not(0, l::AF_NETLINK),
            is_not(0, l::AF_PACKET),
        ],
        l::EAFNOSUPPORT,
        "vsock, TIPC, RDS, SMC, Bluetooth and the like reach other machines past the guard",
    ),
];

/// The rules of a server space.
pub fn rules() -> &'static [Rule] {
    RULES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packets::compile;

    /// The errno that the first rule that applies gives to socket(2).
    fn judge(family: i32, kind: i32, protocol: i32) -> Option<i32> {
        let args = [family, kind, protocol].map(i32::cast_unsigned);
        let holds = |cond: &Cond| {
            let arg = args[usize::from(cond.arg)];
            match cond.test {
                Test::Is(value) => arg == value,
                Test::IsNot(value) => arg != value,
                Test::AtLeast(value) => arg >= value,
                Test::Masked { mask, value } => arg & mask == value,
            }
        };
        let rule = rules().iter().find(|rule| rule.when.iter().all(holds))?;
        match rule.action {
            Action::Errno(errno) => Some(errno),
            Action::Ask => None,
        }
    }

    #[test]
    fn they_compile_and_ask_nobody() {
        let (refusing, asking) = compile(rules()).unwrap();
        assert!(refusing.len() > 2 && asking.is_none());
    }

    #[test]
    fn what_servers_use_is_let_through() {
        for family in [l::AF_INET, l::AF_INET6] {
            for flags in [0, l::SOCK_CLOEXEC | l::SOCK_NONBLOCK] {
                assert_eq!(judge(family, l::SOCK_STREAM | flags, 0), None);
                assert_eq!(judge(family, l::SOCK_STREAM | flags, l::IPPROTO_TCP), None);
                assert_eq!(judge(family, l::SOCK_DGRAM | flags, l::IPPROTO_UDP), None);
            }
        }
        assert_eq!(judge(l::AF_INET, l::SOCK_DGRAM, l::IPPROTO_ICMP), None);
        assert_eq!(judge(l::AF_INET6, l::SOCK_DGRAM, l::IPPROTO_ICMPV6), None);
        assert_eq!(judge(l::AF_UNIX, l::SOCK_SEQPACKET, 0), None);
        assert_eq!(judge(l::AF_NETLINK, l::SOCK_RAW, l::NETLINK_ROUTE), None);
    }

    #[test]
    fn what_goes_round_the_guard_is_not() {
        const MPTCP: i32 = 262;
        const SMC: i32 = 256;
        for family in [l::AF_INET, l::AF_INET6] {
            for protocol in [MPTCP, SMC, l::IPPROTO_SCTP, l::IPPROTO_DCCP, l::IPPROTO_UDPLITE] {
                assert_eq!(judge(family, l::SOCK_STREAM, protocol), Some(l::EPROTONOSUPPORT));
            }
            for kind in [l::SOCK_RAW, l::SOCK_RAW | l::SOCK_CLOEXEC, SOCK_PACKET] {
                assert_eq!(judge(family, kind, l::IPPROTO_TCP), Some(l::EPERM));
            }
            assert!(judge(family, l::SOCK_SEQPACKET, l::IPPROTO_SCTP).is_some());
        }
        assert_eq!(judge(l::AF_PACKET, l::SOCK_RAW, 0), Some(l::EPERM));
        assert_eq!(judge(l::AF_VSOCK, l::SOCK_STREAM, 0), Some(l::EAFNOSUPPORT));
        assert_eq!(judge(43, l::SOCK_STREAM, 0), Some(l::EAFNOSUPPORT));
    }
}

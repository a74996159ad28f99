//! Sockets.

use super::Kind::{
    By, ChangedFd, Fd, Flags, In, InMessage, Int, Many, OneOf, OptionIn, OptionOut, Out,
    OutMessage, OutSockaddr, Size, Sockaddr, SockaddrSize, To,
};
use super::{Arg, Class, Count, Outcome, Syscall, Way};
use crate::layout::Shape::{Fields, Message, TwoFds};
use crate::layout::time;
use crate::names::network as n;

calls! {
    socket(domain: OneOf(&n::FAMILY), kind: OneOf(&n::KIND), protocol: By(0)) -> Fd [Network Descriptor];
    socketpair(domain: OneOf(&n::FAMILY), kind: OneOf(&n::KIND), protocol: By(0), sv: To(TwoFds, Way::Out)) -> Zero [Network Descriptor];
    bind(sockfd: ChangedFd, addr: Sockaddr(2), addrlen: Size) -> Zero [Network Descriptor Default];
    connect(sockfd: ChangedFd, addr: Sockaddr(2), addrlen: Size) -> Zero [Network Descriptor Default];
    listen(sockfd: Fd, backlog: Int) -> Zero [Network Descriptor Default];
    accept(sockfd: Fd, addr: OutSockaddr(2), addrlen: SockaddrSize) -> Fd [Network Descriptor Default];
    accept4(sockfd: Fd, addr: OutSockaddr(2), addrlen: SockaddrSize, flags: Flags(&n::ACCEPT)) -> Fd [Network Descriptor Default];
    getsockname(sockfd: Fd, addr: OutSockaddr(2), addrlen: SockaddrSize) -> Zero [Network Descriptor];
    getpeername(sockfd: Fd, addr: OutSockaddr(2), addrlen: SockaddrSize) -> Zero [Network Descriptor];
    sendto(sockfd: Fd, buf: In(2), len: Size, flags: Flags(&n::MESSAGE), dest_addr: Sockaddr(5), addrlen: Size) -> Number [Network Descriptor];
    recvfrom(sockfd: Fd, buf: Out, len: Size, flags: Flags(&n::MESSAGE), src_addr: OutSockaddr(5), addrlen: SockaddrSize) -> Number [Network Descriptor];
    sendmsg(sockfd: Fd, msg: InMessage, flags: Flags(&n::MESSAGE)) -> Number [Network Descriptor];
    recvmsg(sockfd: Fd, msg: OutMessage, flags: Flags(&n::MESSAGE)) -> Number [Network Descriptor];
    sendmmsg(sockfd: Fd, msgvec: Many(Message, Way::In, Count::Of(2)), vlen: Size, flags: Flags(&n::MESSAGE)) -> Number [Network Descriptor];
    recvmmsg(sockfd: Fd, msgvec: Many(Message, Way::Out, Count::Of(2)), vlen: Size, flags: Flags(&n::MESSAGE), timeout: To(Fields(&time::TIMESPEC), Way::In)) -> Number [Network Descriptor];
    shutdown(sockfd: Fd, how: OneOf(&n::SHUTDOWN)) -> Zero [Network Descriptor];
    setsockopt(sockfd: Fd, level: OneOf(&n::LEVEL), optname: By(1), optval: OptionIn(4), optlen: Size) -> Zero [Network Descriptor];
    getsockopt(sockfd: Fd, level: OneOf(&n::LEVEL), optname: By(1), optval: OptionOut(4), optlen: SockaddrSize) -> Zero [Network Descriptor];
}

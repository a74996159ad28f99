//! Packet sockets in a portspace.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hyperspector_window::packets::{broker, guard, probe};
use libc as l;

use super::child::Do;
use super::lab::{ETHERTYPE, Ear, Lab, Portspace, frame, ip, link_layer, until};

const PAUSE: Duration = Duration::from_millis(150);

/// A socket that is bound to w0.
fn watching(lab: &Lab, portspace: &Portspace) -> i32 {
    portspace.bound(lab.index("w0"))
}

fn text_of(frame: &[u8]) -> String {
    String::from_utf8_lossy(frame[14..].split(|b| *b == 0).next().unwrap()).into_owned()
}

fn int(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

fn ring(size: u32, number: u32) -> Vec<u8> {
    [size, number, 2048, size / 2048 * number].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// Has the portspace send on an interface, and checks that nothing comes out at `ear`, where root's
/// own frame does.
#[track_caller]
fn cannot_send(lab: &Lab, portspace: &Portspace, fd: i32, interface: &str, ear: &Ear) {
    let before = lab.status().dropped;
    let address = link_layer(ETHERTYPE, lab.index(interface));
    for _ in 0..10 {
        // The kernel may report the drop as ENOBUFS.
        let _ = portspace.try_to(Do::Send(fd, frame("from inside"), address.clone()));
    }
    assert!(Ear::new(&lab.host, interface, false).send("from root"));
    let heard = ear.hear(PAUSE);
    assert!(heard.iter().any(|text| text == "from root"), "{interface}: {heard:?}");
    assert!(!heard.iter().any(|text| text == "from inside"), "{interface}: {heard:?}");
    let status = lab.status();
    // Where the socket itself refuses, nothing gets as far as the interface.
    let expected = if status.send_denied { 0 } else { 10 };
    assert_eq!(status.dropped - before, expected, "{interface}");
}

pub fn receives_and_cannot_send() {
    let lab = Lab::new();
    let portspace = lab.portspace("a");
    let fd = watching(&lab, &portspace);
    assert!(Ear::new(&lab.peer, "w1", false).send("hello"));
    let (_, received) = portspace.try_to(Do::Receive(fd, 3000)).unwrap();
    assert_eq!(text_of(&received), "hello");

    cannot_send(&lab, &portspace, fd, "w0", &Ear::new(&lab.peer, "w1", false));
    cannot_send(&lab, &portspace, fd, "x0", &Ear::new(&lab.peer, "x1", false));
    cannot_send(&lab, &portspace, fd, "lo", &Ear::new(&lab.host, "lo", false));

    // The mark stays, and the socket leads to no namespace.
    portspace.fails(l::EPERM, Do::Set(fd, l::SOL_SOCKET, l::SO_MARK, int(0)));
    let status = portspace.status();
    assert_eq!((status.sockets, status.listeners, status.guard), (1, 1, true));
    portspace.does(Do::Close(fd));
    until("the socket is gone", || portspace.status().sockets == 0);
}

pub fn watches_only_its_interfaces() {
    let lab = Lab::new();
    let portspace = lab.portspace("a");
    let protocol = i32::from(ETHERTYPE.to_be());
    let kind = l::SOCK_RAW | l::SOCK_CLOEXEC | l::SOCK_NONBLOCK;
    let fd = portspace.does(Do::Socket(l::AF_PACKET, kind, protocol)) as i32;
    let flags = portspace.does(Do::Flags(fd));
    assert_eq!(flags >> 32, i64::from(l::FD_CLOEXEC));
    assert_ne!(flags & i64::from(l::O_NONBLOCK), 0);
    for interface in [0, 1, lab.index("x0"), 99] {
        portspace.fails(l::EPERM, Do::Bind(fd, link_layer(ETHERTYPE, interface)));
    }
    // Nothing is received before the socket is bound, and the protocol was not forgotten.
    assert!(Ear::new(&lab.peer, "w1", false).send("too early"));
    portspace.fails(l::ETIMEDOUT, Do::Receive(fd, 200));
    portspace.does(Do::Bind(fd, link_layer(0, lab.index("w0"))));
    assert!(Ear::new(&lab.peer, "w1", false).send("in time"));
    let (_, received) = portspace.try_to(Do::Receive(fd, 3000)).unwrap();
    assert_eq!(text_of(&received), "in time");

    let promiscuous = |interface: u32| {
        let mut request = vec![0; 16];
        request[..4].copy_from_slice(&interface.to_ne_bytes());
        request[4] = 1;
        Do::Set(fd, l::SOL_PACKET, l::PACKET_ADD_MEMBERSHIP, request)
    };
    portspace.does(promiscuous(lab.index("w0")));
    portspace.fails(l::EPERM, promiscuous(lab.index("x0")));

    // One that watches everything hears all interfaces on a socket bound to none.
    let all = lab.portspace_with("all", &[], 8 << 20, false);
    let fd = all.does(Do::Socket(l::AF_PACKET, l::SOCK_DGRAM, protocol)) as i32;
    assert!(Ear::new(&lab.peer, "x1", false).send("anywhere"));
    all.does(Do::Receive(fd, 3000));
    all.does(Do::Bind(fd, link_layer(ETHERTYPE, 0)));
}

pub fn bad_arguments_fail_as_in_the_kernel() {
    let lab = Lab::new();
    let portspace = lab.portspace("a");
    let fd = watching(&lab, &portspace);
    for pointer in [0, 1, 0xffff_8000_0000_0000, u64::MAX] {
        portspace.fails(l::EFAULT, Do::BindWild(fd, pointer, 20));
        for option in [l::PACKET_FANOUT, l::PACKET_RX_RING, l::PACKET_ADD_MEMBERSHIP] {
            portspace.fails(
                l::EFAULT,
                Do::SetWild(
                    fd,
                    l::SOL_PACKET,
                    option,
                    pointer,
                    16 - 8 * u32::from(option == l::PACKET_FANOUT),
                ),
            );
        }
    }
    for length in [129, 4096, u32::MAX, 1 << 31] {
        portspace.fails(l::EINVAL, Do::BindWild(fd, 4096, length));
    }
    portspace.fails(l::EINVAL, Do::SetWild(fd, l::SOL_PACKET, l::PACKET_RX_RING, 4096, u32::MAX));
    portspace.fails(l::EBADF, Do::Bind(99, link_layer(ETHERTYPE, 1)));
    portspace.fails(l::EBADF, Do::Bind(-1, link_layer(ETHERTYPE, 1)));
    // Not a socket, and not a packet socket.
    portspace.fails(l::ENOTSOCK, Do::Bind(0, link_layer(ETHERTYPE, 1)));
    let inet = portspace.does(Do::Socket(l::AF_INET, l::SOCK_STREAM, 0)) as i32;
    portspace.fails(l::ENOPROTOOPT, Do::Set(inet, l::SOL_PACKET, l::PACKET_FANOUT, int(1)));
    let mut six = vec![0; 28];
    six[0] = 10;
    let inet6 = portspace.does(Do::Socket(l::AF_INET6, l::SOCK_STREAM, 0)) as i32;
    portspace.does(Do::Bind(inet6, six));
    let mut long = vec![0; 128];
    long[0] = 2;
    portspace.does(Do::Bind(inet, long));
    portspace.fails(l::EPERM, Do::Socket(l::AF_PACKET, 10, 0));
    portspace.fails(l::EPERM, Do::Socket(l::AF_INET, 10, 0));
    portspace.fails(l::EPERM, Do::Socket(l::AF_PACKET, l::SOCK_STREAM, 0));
}

pub fn sending_options_are_refused() {
    let lab = Lab::new();
    let portspace = lab.portspace("a");
    let fd = watching(&lab, &portspace);
    let refused = [
        l::PACKET_TX_RING,
        l::PACKET_QDISC_BYPASS,
        l::PACKET_VNET_HDR,
        l::PACKET_TX_TIMESTAMP,
        l::PACKET_TX_HAS_OFF,
        200,
    ];
    for option in refused {
        portspace.fails(l::EPERM, Do::Set(fd, l::SOL_PACKET, option, ring(4096, 1)));
    }
    for (option, value) in
        [(l::PACKET_VERSION, 2), (l::PACKET_AUXDATA, 1), (l::PACKET_IGNORE_OUTGOING, 1)]
    {
        portspace.does(Do::Set(fd, l::SOL_PACKET, option, int(value)));
    }
    assert_eq!(portspace.does(Do::Get(fd, l::SOL_PACKET, l::PACKET_QDISC_BYPASS)), 0);
}

pub fn rings_are_limited() {
    let lab = Lab::new();
    let portspace = lab.portspace_with("a", &["w0"], 2 << 20, false);
    let set = |fd: i32, ring: Vec<u8>| Do::Set(fd, l::SOL_PACKET, l::PACKET_RX_RING, ring);
    let first = watching(&lab, &portspace);
    portspace.fails(l::ENOMEM, set(first, ring(4096, 512)));
    portspace.does(set(first, ring(4096, 256)));
    portspace.does(Do::Map(first, 1 << 20));
    assert_eq!(portspace.status().ring, 1 << 20);
    let second = watching(&lab, &portspace);
    portspace.fails(l::ENOMEM, set(second, ring(4096, 256)));
    portspace.does(set(second, ring(4096, 128)));
    portspace.does(set(second, vec![0; 16]));
    assert_eq!(portspace.status().ring, 1 << 20);
    // A version 3 ring, with its longer request.
    portspace.does(Do::Set(second, l::SOL_PACKET, l::PACKET_VERSION, int(2)));
    let mut third = ring(1 << 16, 8);
    third.extend_from_slice(&[0; 12]);
    portspace.does(set(second, third));
    // A closed socket's ring counts for as long as it is mapped.
    portspace.does(Do::Close(first));
    assert_eq!(portspace.status().ring, (1 << 20) + (1 << 19));
    // Another portspace has a limit of its own.
    let other = lab.portspace_with("b", &["w0"], 2 << 20, false);
    let fd = watching(&lab, &other);
    other.does(set(fd, ring(4096, 256)));
}

pub fn fanout_groups_are_private() {
    let lab = Lab::new();
    let (a, b) = (lab.portspace("a"), lab.portspace("b"));
    let join = |portspace: &Portspace, fd, value: u32| {
        portspace.does(Do::Set(fd, l::SOL_PACKET, l::PACKET_FANOUT, int(value)));
    };
    let id = |portspace: &Portspace, fd| {
        portspace.does(Do::Get(fd, l::SOL_PACKET, l::PACKET_FANOUT)) & 0xffff
    };
    // Round robin, so that two members get one packet of two each.
    let group = 7 | (1 << 16);
    let (a1, a2) = (watching(&lab, &a), watching(&lab, &a));
    let b1 = watching(&lab, &b);
    join(&a, a1, group);
    join(&a, a2, group);
    join(&b, b1, group);
    assert_eq!(id(&a, a1), id(&a, a2));
    assert_ne!(id(&a, a1), id(&b, b1));

    let ear = Ear::new(&lab.peer, "w1", false);
    (0..10).for_each(|n| assert!(ear.send(&format!("packet {n}"))));
    let count = |portspace: &Portspace, fd| {
        (0..).take_while(|_| portspace.try_to(Do::Receive(fd, 200)).is_ok()).count()
    };
    assert_eq!((count(&a, a1), count(&a, a2), count(&b, b1)), (5, 5, 10));

    // The group ends with its sockets; its id means nothing afterwards.
    a.does(Do::Close(a1));
    a.does(Do::Close(a2));
    let a3 = watching(&lab, &a);
    join(&a, a3, group);
    // A free id, and joining by what the kernel gave.
    let (a4, a5) = (watching(&lab, &a), watching(&lab, &a));
    join(&a, a4, 0x2000 << 16);
    let free = u32::try_from(id(&a, a4)).unwrap();
    join(&a, a5, free);
    assert_eq!(id(&a, a4), id(&a, a5));
    let b2 = watching(&lab, &b);
    join(&b, b2, free);
    assert_ne!(id(&b, b2), i64::from(free));
    b.fails(l::EPERM, Do::Set(b1, l::SOL_PACKET, l::PACKET_FANOUT, int(7 << 16)));
    assert_eq!((a.status().violations, b.status().violations), (0, 0));
}

pub fn later_interfaces_are_guarded() {
    let lab = Lab::new();
    let portspace = lab.portspace("a");
    let fd = watching(&lab, &portspace);
    lab.veth("y0", "y1");
    until("y0 is guarded", || lab.status().guarded.iter().any(|(_, name)| name == "y0"));
    cannot_send(&lab, &portspace, fd, "y0", &Ear::new(&lab.peer, "y1", false));
    // Renamed, and gone and made again under the same index.
    lab.in_host(|| ip("link set y0 down"));
    lab.in_host(|| ip("link set y0 name z0"));
    until("z0 is guarded", || lab.status().guarded.iter().any(|(_, name)| name == "z0"));
    let index = lab.index("z0");
    lab.in_host(|| ip("link del z0"));
    until("z0 is forgotten", || !lab.status().guarded.iter().any(|(i, _)| *i == index));
    assert!(!lab.pins.join(index.to_string()).exists());
    lab.in_host(|| ip(&format!("link add v0 index {index} type veth peer name v1")));
    until("v0 is guarded", || lab.status().guarded.iter().any(|(_, name)| name == "v0"));
    lab.in_host(|| ["v0", "v1"].iter().for_each(|name| ip(&format!("link set {name} up"))));
    cannot_send(&lab, &portspace, fd, "v0", &Ear::new(&lab.host, "v1", false));
}

/// More news than the guard's netlink socket holds, while it is stopped.
pub fn a_burst_of_interfaces_is_guarded() {
    let lab = Lab::new();
    let guard = rustix::process::Pid::from_raw(lab.guard_pid() as i32).unwrap();
    rustix::process::kill_process(guard, rustix::process::Signal::STOP).unwrap();
    lab.in_host(|| {
        for n in 0..4 {
            ip(&format!("link add b{n} type veth peer name c{n}"));
        }
        for n in 0..1500 {
            let up = if n % 2 == 0 { "up" } else { "down" };
            let mut routes = hyperspector_sys::netlink::Connection::open().unwrap();
            routes.set_up("b0", up == "up").unwrap();
        }
        ip("link del b3");
    });
    rustix::process::kill_process(guard, rustix::process::Signal::CONT).unwrap();
    let names = |status: guard::Status| {
        let mut names: Vec<_> = status.guarded.into_iter().map(|(_, name)| name).collect();
        names.sort();
        names
    };
    let all = ["b0", "b1", "b2", "c0", "c1", "c2", "lo", "w0", "x0"];
    until("all are guarded", || names(lab.status()) == all);
    assert!(lab.status().rescans > 0);
}

pub fn death_of_the_guard_opens_nothing() {
    let mut lab = Lab::new();
    let portspace = lab.portspace("a");
    let fd = watching(&lab, &portspace);
    let ear = Ear::new(&lab.peer, "w1", false);
    cannot_send(&lab, &portspace, fd, "w0", &ear);
    lab.kill_guard();
    let address = link_layer(ETHERTYPE, lab.index("w0"));
    let send = Do::Send(fd, frame("from inside"), address);
    let _ = portspace.try_to(send);
    assert!(ear.hear(PAUSE).is_empty());
    // Capture goes on, new sockets have to wait.
    assert!(ear.send("still here"));
    portspace.does(Do::Receive(fd, 3000));
    portspace.fails(l::ENETDOWN, Do::Socket(l::AF_PACKET, l::SOCK_RAW, 0));
    assert!(!portspace.status().guard);

    lab.start_guard();
    // 10 before, 1 between: the counter is pinned too.
    let status = lab.status();
    assert_eq!(status.dropped, if status.send_denied { 0 } else { 11 });
    let channel = lab.connect();
    let reply = portspace.ask_broker(&broker::Request::Guard, &[channel.as_fd()]);
    assert!(matches!(reply, broker::Reply::Done), "{reply:?}");
    watching(&lab, &portspace);
    cannot_send(&lab, &portspace, fd, "w0", &ear);

    // Removal of what a dead guard has left lets everything through again: nothing stays behind.
    lab.kill_guard();
    let marked = Ear::new(&lab.host, "w0", true);
    marked.send("guarded");
    assert!(ear.hear(PAUSE).is_empty());
    lab.in_host(|| guard::remove(&lab.pins)).unwrap();
    assert!(!lab.pins.exists());
    until("the programs are gone", || {
        marked.send("unguarded");
        !ear.hear(Duration::from_millis(50)).is_empty()
    });
    lab.in_host(|| guard::remove(&lab.pins)).unwrap();
}

pub fn a_new_broker_takes_over() {
    let lab = Lab::new();
    let mut portspace = lab.portspace_with("a", &["w0"], 2 << 20, false);
    let fd = watching(&lab, &portspace);
    portspace.does(Do::Set(fd, l::SOL_PACKET, l::PACKET_RX_RING, ring(4096, 256)));
    portspace.does(Do::Set(fd, l::SOL_PACKET, l::PACKET_FANOUT, int(7)));
    let known = portspace.status().known;
    portspace.replace_broker(&lab, known);
    assert_eq!(portspace.status().ring, 1 << 20);
    let second = watching(&lab, &portspace);
    let too_much = Do::Set(second, l::SOL_PACKET, l::PACKET_RX_RING, ring(4096, 256));
    portspace.fails(l::ENOMEM, too_much);
    portspace.does(Do::Set(second, l::SOL_PACKET, l::PACKET_FANOUT, int(7)));
    let id = |fd| portspace.does(Do::Get(fd, l::SOL_PACKET, l::PACKET_FANOUT));
    assert_eq!(id(fd), id(second));
}

pub fn clsact_guards_too() {
    let mut lab = Lab::with(true);
    assert_eq!(lab.status().how, guard::How::Clsact);
    let portspace = lab.portspace("a");
    let fd = watching(&lab, &portspace);
    let ear = Ear::new(&lab.peer, "w1", false);
    cannot_send(&lab, &portspace, fd, "w0", &ear);
    lab.veth("y0", "y1");
    until("y0 is guarded", || lab.status().guarded.iter().any(|(_, name)| name == "y0"));
    cannot_send(&lab, &portspace, fd, "y0", &Ear::new(&lab.peer, "y1", false));
    lab.kill_guard();
    let _ = portspace.try_to(Do::Send(fd, frame("x"), link_layer(ETHERTYPE, lab.index("w0"))));
    assert!(ear.hear(PAUSE).is_empty());
    lab.start_guard();
    cannot_send(&lab, &portspace, fd, "w0", &ear);
    lab.kill_guard();
    lab.in_host(|| guard::remove(&lab.pins)).unwrap();
    let qdiscs = lab.in_host(|| {
        std::process::Command::new("tc").args(["qdisc", "show"]).output().unwrap().stdout
    });
    assert!(!String::from_utf8_lossy(&qdiscs).contains("clsact"));
}

pub fn tcpdump_runs() {
    let lab = Lab::new();
    let portspace = lab.portspace("a");
    let words = "tcpdump -i w0 -nn -c 2 -B 1024 --immediate-mode ether proto 0x88b5";
    portspace.order(&Do::Run(10, words.split(' ').map(str::to_owned).collect()));
    let ear = Ear::new(&lab.peer, "w1", false);
    let start = Instant::now();
    let status = loop {
        ear.send("for tcpdump");
        std::thread::sleep(Duration::from_millis(20));
        let status = portspace.status();
        if (status.sockets == 0 && status.answered > 3) || start.elapsed().as_secs() > 12 {
            break status;
        }
    };
    let (code, output) = portspace.outcome().unwrap();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert_eq!(code, 0, "{output} {status:?}");
    assert!(output.contains("2 packets captured"), "{output}");
}

/// What gets out on a new interface, in the worst case: it is up from the moment that it exists, and
/// somebody who knows its index beforehand sends without a pause. Then, as tools do it: first made,
/// then brought up, when the guard has had the processor.
pub fn reaction() {
    let lab = Lab::new();
    let mut leaks = Vec::new();
    for (at_once, index) in [(true, 1000..1050), (false, 2000..2050)] {
        let mut times: Vec<_> = index.map(|index| leak(&lab, index, at_once)).collect();
        times.sort();
        let leaked = times.iter().filter(|(_, sent)| *sent > 0).count();
        let most = times.iter().map(|(_, sent)| *sent).max().unwrap();
        println!("up at once: {at_once}; {leaked} of 50 carried packets, at most {most};");
        println!("  open for {:?} (median), {:?} (most)", times[25].0, times[49].0);
        leaks.push((leaked, times[25].0));
    }
    let denied = lab.status().send_denied;
    println!("sending is refused at the socket: {denied}");
    assert!(!denied || leaks[0].0 == 0, "nothing may be sent where the socket refuses");
    assert_eq!(leaks[1].0, 0, "an interface that is brought up by itself must be guarded");
    assert!(leaks[0].1 < Duration::from_millis(50));
}

/// Makes an interface under attack; for how long it was open, and how many packets got out.
fn leak(lab: &Lab, index: u32, at_once: bool) -> (Duration, usize) {
    let marked = Ear::new(&lab.host, "w0", true);
    let sender = std::thread::spawn(move || {
        let start = Instant::now();
        let (mut first, mut sent) = (None, 0);
        loop {
            match marked.send_on(index, "too fast") {
                Ok(()) => {
                    sent += 1;
                    first.get_or_insert_with(Instant::now);
                }
                // The guard's drop, or its refusal.
                Err(libc::ENOBUFS | libc::EPERM) => {
                    return (first.map_or(Duration::ZERO, |first| first.elapsed()), sent);
                }
                Err(_) => assert!(start.elapsed() < Duration::from_secs(5)),
            }
        }
    });
    lab.in_host(|| {
        if at_once {
            // One request; a veth cannot be up before its peer.
            return ip(&format!("link add r{index} index {index} up type ifb"));
        }
        ip(&format!("link add r{index} index {index} type veth peer name s0"));
        ip("link set s0 up");
    });
    if !at_once {
        let name = format!("r{index}");
        until("it is guarded", || lab.status().guarded.iter().any(|(_, one)| *one == name));
        lab.in_host(|| ip(&format!("link set {name} up")));
    }
    let result = sender.join().unwrap();
    lab.in_host(|| ip(&format!("link del r{index}")));
    result
}

/// What /proc says of the workers; that they cannot get back what they gave up they try themselves
/// at every start.
pub fn workers_hold_little() {
    let lab = Lab::new();
    let portspace = lab.portspace("a");
    let status = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let check = |pid, uid: u32, capabilities: u64| {
        let status = status(pid);
        let has = |line: &str| assert!(status.contains(line), "{line} is not in\n{status}");
        has(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}"));
        has(&format!("CapPrm:\t{capabilities:016x}"));
        has(&format!("CapEff:\t{capabilities:016x}"));
        has("CapBnd:\t0000000000000000");
        has("CapAmb:\t0000000000000000");
        has("NoNewPrivs:\t1");
        has("Seccomp:\t2");
    };
    let bit = |bits: &[u32]| bits.iter().fold(0, |all, bit| all | 1 << bit);
    check(lab.guard_pid(), 65533, bit(&[12, 13, 39]));
    let broker = portspace.broker.0.id();
    // dac_override, dac_read_search, setgid, setuid, sys_chroot, sys_ptrace
    check(broker, 265_000, bit(&[1, 2, 6, 7, 18, 19]));
    let of = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(of(broker), of(portspace.child.0.id()));
    assert_ne!(of(broker), of(std::process::id()));
}

pub fn probe_finds_this_kernel_fit() {
    let facts = probe();
    println!("{facts:?}");
    assert!(facts.transmit_guard.is_ok() && facts.packet_sockets.is_ok());
    assert!(facts.packet_diag.is_ok() && facts.notification.is_ok() && facts.add_fd.is_ok());
    assert!(facts.tracing.is_ok());
}

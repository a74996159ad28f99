//! The broker's logic against a made-up world.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

/// What was done to sockets, in order.
type Log = Rc<RefCell<Vec<String>>>;

#[derive(Clone, Debug)]
struct FakeSocket {
    domain: i32,
    cookie: u64,
    group: u16,
    log: Log,
}

impl PartialEq for FakeSocket {
    fn eq(&self, other: &Self) -> bool {
        self.cookie == other.cookie
    }
}
impl Eq for FakeSocket {}

impl FakeSocket {
    fn note(&self, what: String) {
        self.log.borrow_mut().push(what);
    }
}

impl Socket for FakeSocket {
    fn domain(&self) -> Result<i32, Errno> {
        Ok(self.domain)
    }
    fn cookie(&self) -> Result<u64, Errno> {
        Ok(self.cookie)
    }
    fn bind(&self, address: &[u8]) -> Result<(), Errno> {
        self.note(format!("bind {address:?}"));
        Ok(())
    }
    fn set(&self, option: i32, value: &[u8]) -> Result<(), Errno> {
        self.note(format!("set {option} {value:?}"));
        Ok(())
    }
    fn group(&self) -> Result<u16, Errno> {
        Ok(self.group)
    }
    fn set_nonblocking(&self) -> Result<(), Errno> {
        self.note("nonblocking".into());
        Ok(())
    }
}

/// A caller with one descriptor, 3, and memory that starts at address 4096.
struct World {
    fd: FakeSocket,
    memory: Vec<u8>,
    live: Vec<Live>,
    log: Log,
}

impl World {
    fn new(domain: i32, memory: &[u8]) -> Self {
        let log = Log::default();
        let fd = FakeSocket { domain, cookie: 1, group: 500, log: log.clone() };
        Self { fd, memory: memory.to_vec(), live: Vec::new(), log }
    }

    fn log(&self) -> Vec<String> {
        self.log.borrow().clone()
    }
}

impl Edge for World {
    type Socket = FakeSocket;
    fn read(&mut self, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        let start = usize::try_from(address).unwrap().checked_sub(4096).ok_or(Errno::FAULT)?;
        let found = self.memory.get(start..start + into.len()).ok_or(Errno::FAULT)?;
        into.copy_from_slice(found);
        Ok(())
    }
    fn duplicate(&mut self, fd: i32) -> Result<FakeSocket, Errno> {
        if fd == 3 { Ok(self.fd.clone()) } else { Err(Errno::BADF) }
    }
    fn create(&mut self, kind: Kind) -> Result<FakeSocket, Errno> {
        self.log.borrow_mut().push(format!("create {kind:?}"));
        Ok(FakeSocket { domain: l::AF_PACKET, cookie: 77, group: 0, log: self.log.clone() })
    }
    fn live(&mut self) -> Result<Vec<Live>, Errno> {
        Ok(self.live.clone())
    }
}

fn answers() -> Answers {
    let policy = Policy {
        interfaces: vec![("eth0".into(), 7)],
        any: false,
        ring_limit: 1 << 20,
        socket_limit: 4,
        offered: None,
    };
    Answers::new(policy, Known::default())
}

fn unsigned(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

fn socket(world: &mut World, answers: &mut Answers, kind: i32, protocol: u64) -> Verdict {
    answers.answer(world, l::SYS_socket, &[17, unsigned(kind), protocol, 0, 0, 0])
}

type Verdict = Result<Answer<FakeSocket>, Errno>;

fn bind(world: &mut World, answers: &mut Answers, fd: u64, length: u64) -> Verdict {
    answers.answer(world, l::SYS_bind, &[fd, 4096, length, 0, 0, 0])
}

fn set(world: &mut World, answers: &mut Answers, option: i32, length: u64) -> Verdict {
    let args = [3, 263, unsigned(option), 4096, length, 0];
    answers.answer(world, l::SYS_setsockopt, &args)
}

fn link_layer(protocol: u16, interface: u32) -> Vec<u8> {
    LinkLayer { protocol, interface }.encode().to_vec()
}

#[test]
fn a_packet_socket_comes_from_the_guard_with_the_flags_that_were_asked_for() {
    let (mut world, mut answers) = (World::new(l::AF_PACKET, &[]), answers());
    let kind = l::SOCK_RAW | l::SOCK_CLOEXEC | l::SOCK_NONBLOCK;
    let Ok(Answer::Give { socket, cloexec }) = socket(&mut world, &mut answers, kind, 0x0300)
    else {
        panic!("no socket")
    };
    assert!(cloexec && answers.is_ours(socket.cookie));
    assert_eq!(world.log(), ["create Raw", "nonblocking"]);
}

#[test]
fn other_types_and_unknown_flags_are_refused() {
    let (mut world, mut answers) = (World::new(l::AF_PACKET, &[]), answers());
    for (kind, errno) in
        [(l::SOCK_STREAM, Errno::PERM), (10, Errno::PERM), (l::SOCK_RAW | 0x10, Errno::INVAL)]
    {
        assert_eq!(socket(&mut world, &mut answers, kind, 0), Err(errno), "type {kind}");
    }
    assert!(world.log().is_empty());
}

#[test]
fn no_more_sockets_than_allowed_but_closed_ones_do_not_count() {
    let (mut world, _) = (World::new(l::AF_PACKET, &[]), ());
    let known = Known { sockets: (10..14).map(|cookie| (cookie, 0)).collect(), groups: vec![] };
    let mut answers = Answers::new(answers().policy, known);
    world.live = (10..14).map(|cookie| Live { cookie, ..Live::default() }).collect();
    assert_eq!(socket(&mut world, &mut answers, l::SOCK_RAW, 0), Err(Errno::MFILE));
    world.live.pop();
    assert!(socket(&mut world, &mut answers, l::SOCK_RAW, 0).is_ok());
}

#[test]
fn binding_is_for_watched_interfaces_and_done_with_our_copy() {
    let (mut world, mut answers) = (World::new(l::AF_PACKET, &link_layer(0x0300, 7)), answers());
    assert_eq!(bind(&mut world, &mut answers, 3, 20), Ok(Answer::Done));
    assert_eq!(world.log(), [format!("bind {:?}", link_layer(0x0300, 7))]);
    for interface in [0, 1, 8] {
        let mut world = World::new(l::AF_PACKET, &link_layer(0x0300, interface));
        assert_eq!(bind(&mut world, &mut answers, 3, 20), Err(Errno::PERM));
        assert!(world.log().is_empty(), "interface {interface}");
    }
}

#[test]
fn protocol_0_stands_for_what_the_socket_was_made_for() {
    let mut world = World::new(l::AF_PACKET, &link_layer(0, 7));
    let known = Known { sockets: vec![(1, 0x0008)], groups: vec![] };
    let mut answers = Answers::new(answers().policy, known);
    assert_eq!(bind(&mut world, &mut answers, 3, 20), Ok(Answer::Done));
    assert_eq!(world.log(), [format!("bind {:?}", link_layer(0x0008, 7))]);
}

#[test]
fn who_watches_everything_receives_from_everywhere_at_once() {
    let mut world = World::new(l::AF_PACKET, &link_layer(0x0300, 0));
    let policy = Policy { any: true, socket_limit: 4, ..Policy::default() };
    let mut answers = Answers::new(policy, Known::default());
    assert!(socket(&mut world, &mut answers, l::SOCK_DGRAM, 0x0300).is_ok());
    assert_eq!(bind(&mut world, &mut answers, 3, 20), Ok(Answer::Done));
    let bound = format!("bind {:?}", link_layer(0x0300, 0));
    assert_eq!(world.log(), ["create Dgram", &bound, &bound]);
}

#[test]
fn wild_pointers_lengths_and_descriptors_fail_as_in_the_kernel() {
    let (mut world, mut answers) = (World::new(l::AF_PACKET, &[17; 10]), answers());
    assert_eq!(bind(&mut world, &mut answers, 3, 20), Err(Errno::FAULT));
    assert_eq!(bind(&mut world, &mut answers, 3, 4000), Err(Errno::INVAL));
    assert_eq!(bind(&mut world, &mut answers, 9, 20), Err(Errno::BADF));
    assert_eq!(set(&mut world, &mut answers, l::PACKET_FANOUT, 5), Err(Errno::INVAL));
    assert_eq!(set(&mut world, &mut answers, l::PACKET_RX_RING, 8), Err(Errno::INVAL));
    assert_eq!(set(&mut world, &mut answers, l::PACKET_RX_RING, 28), Err(Errno::FAULT));
}

#[test]
fn other_families_are_bound_here_and_paths_as_the_caller() {
    let mut inet6 = vec![0; 28];
    inet6[0] = 10;
    let (mut world, mut answers) = (World::new(l::AF_INET6, &inet6), answers());
    assert_eq!(bind(&mut world, &mut answers, 3, 28), Ok(Answer::Done));
    assert_eq!(world.log().len(), 1);

    let mut path = vec![0; 110];
    path[..9].copy_from_slice(b"\x01\0/run/x\0");
    let mut world = World::new(l::AF_UNIX, &path);
    let verdict = bind(&mut world, &mut answers, 3, 110);
    assert!(matches!(verdict, Ok(Answer::AsCaller { connect: false, .. })), "{verdict:?}");

    let mut world = World::new(l::AF_UNIX, b"\x01\0\0an abstract name, long");
    assert_eq!(bind(&mut world, &mut answers, 3, 24), Ok(Answer::Done));

    let mut world = World::new(l::AF_ALG, &[0; 88]);
    assert_eq!(bind(&mut world, &mut answers, 3, 88), Err(Errno::PERM));
}

#[test]
fn only_unix_paths_are_connected_here() {
    let connect = |domain, memory: &[u8]| {
        let mut world = World::new(domain, memory);
        let length = memory.len() as u64;
        answers().answer(&mut world, l::SYS_connect, &[3, 4096, length, 0, 0, 0])
    };
    assert_eq!(connect(l::AF_INET, &[2; 16]), Ok(Answer::Continue));
    assert_eq!(connect(l::AF_UNIX, b"\x01\0\0abstract"), Ok(Answer::Continue));
    assert_eq!(connect(l::AF_UNIX, b"\0\0"), Ok(Answer::Continue));
    assert!(matches!(
        connect(l::AF_UNIX, b"\x01\0/dev/log\0"),
        Ok(Answer::AsCaller { connect: true, .. })
    ));
}

#[test]
fn a_ring_counts_with_the_others_and_freeing_one_always_works() {
    let request = |size: u32, number: u32| {
        let mut request = vec![0; 16];
        request[..4].copy_from_slice(&size.to_ne_bytes());
        request[4..8].copy_from_slice(&number.to_ne_bytes());
        request
    };
    let (mut world, mut answers) = (World::new(l::AF_PACKET, &request(4096, 128)), answers());
    assert_eq!(set(&mut world, &mut answers, l::PACKET_RX_RING, 16), Ok(Answer::Done));
    answers.sockets.insert(2, 0);
    world.live = vec![Live { cookie: 2, ring: 600 << 10, ..Live::default() }];
    assert_eq!(set(&mut world, &mut answers, l::PACKET_RX_RING, 16), Err(Errno::NOMEM));
    world.memory = request(0, 0);
    assert_eq!(set(&mut world, &mut answers, l::PACKET_RX_RING, 16), Ok(Answer::Done));
    assert_eq!(world.log().len(), 2);
}

#[test]
fn fanout_goes_by_the_hosts_ids_and_strangers_are_counted() {
    let (mut world, mut answers) = (World::new(l::AF_PACKET, &99_u32.to_ne_bytes()), answers());
    assert_eq!(set(&mut world, &mut answers, l::PACKET_FANOUT, 4), Ok(Answer::Done));
    assert_eq!(answers.known().groups, [(99, 500)]);
    world.live = vec![Live { cookie: 1, group: Some(500), ..Live::default() }];
    assert_eq!(set(&mut world, &mut answers, l::PACKET_FANOUT, 4), Ok(Answer::Done));
    let unique = format!("set 18 {:?}", (0x2000_0000_u32).to_ne_bytes());
    let joined = format!("set 18 {:?}", 500_u32.to_ne_bytes());
    assert_eq!(world.log(), [unique, joined]);
    assert_eq!(answers.violations, 0);
    world.live.push(Live { cookie: 42, group: Some(500), ..Live::default() });
    assert_eq!(set(&mut world, &mut answers, l::PACKET_FANOUT, 4), Ok(Answer::Done));
    assert_eq!(answers.violations, 1);
}

#[test]
fn a_socket_that_is_not_bound_yet_joins_a_group_on_the_first_watched_interface() {
    let mut world = World::new(l::AF_PACKET, &99_u32.to_ne_bytes());
    let known = Known { sockets: vec![(1, 0x0300)], groups: vec![] };
    let mut answers = Answers::new(answers().policy, known);
    for (interface, binds) in [(7, false), (0, true)] {
        world.log.borrow_mut().clear();
        world.live = vec![Live { cookie: 1, interface, ..Live::default() }];
        assert_eq!(set(&mut world, &mut answers, l::PACKET_FANOUT, 4), Ok(Answer::Done));
        let bound = world.log().contains(&format!("bind {:?}", link_layer(0x0300, 7)));
        assert_eq!(bound, binds, "{:?}", world.log());
    }
}

#[test]
fn promiscuous_mode_is_for_watched_interfaces_and_carries_no_address() {
    let request = |interface: u32, kind: u16| {
        let mut request = vec![0xff; 16];
        request[..4].copy_from_slice(&interface.to_ne_bytes());
        request[4..6].copy_from_slice(&kind.to_ne_bytes());
        request
    };
    let (mut world, mut answers) = (World::new(l::AF_PACKET, &request(7, 1)), answers());
    let add = l::PACKET_ADD_MEMBERSHIP;
    assert_eq!(set(&mut world, &mut answers, add, 16), Ok(Answer::Done));
    let mut clean = request(7, 1);
    clean[6..].fill(0);
    assert_eq!(world.log(), [format!("set 1 {clean:?}")]);
    for other in [request(8, 1), request(7, 0), request(7, 3)] {
        world.memory = other;
        assert_eq!(set(&mut world, &mut answers, add, 16), Err(Errno::PERM));
    }
}

#[test]
fn options_of_other_levels_and_sockets_are_refused() {
    let (mut world, mut answers) = (World::new(l::AF_INET, &[0; 16]), answers());
    assert_eq!(set(&mut world, &mut answers, l::PACKET_FANOUT, 4), Err(Errno::NOPROTOOPT));
    let args = [3, 1, 18, 4096, 4, 0];
    let verdict = answers.answer(&mut world, l::SYS_setsockopt, &args);
    assert_eq!(verdict, Err(Errno::PERM));
}

//! Guarding an interface from its first moment: an nf_tables table (nft(8)) of the family netdev,
//! with one chain on the egress of every device that is there or will be. The kernel hangs it onto
//! a new device while it registers it, which is before the device can be up.
//!
//! The table is owned and persistent: while the guard lives nobody else can change it, nor does
//! `nft flush ruleset` take it away; when the guard dies it stays, and the next one replaces it in
//! one transaction. Its name is written down in the pin directory as an empty directory.
//!
//! The messages are made by hand: see include/uapi/linux/netfilter/nf_tables.h and nfnetlink.h.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyperspector_sys::nft::attribute::{ELEMENT, attribute, nested, number, string};
use hyperspector_sys::nft::message::{CREATE, NFTABLES, REQUEST, batch, header, message};
use hyperspector_sys::{errno, netns};
use rustix::net::{RecvFlags, SendFlags, netlink as nl, recv, send};
use serde::{Deserialize, Serialize};

use super::transmit::remove_if_there;
use crate::packets::MARK;
use crate::packets::netlink::{Socket, attributes, messages, refusal};

/// How an interface that appears later is guarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewInterfaces {
    /// From the moment in which it is there (Linux 6.17).
    #[serde(rename = "at once")]
    AtOnce,
    /// A moment later, when the guard has heard of it.
    #[default]
    #[serde(rename = "after the kernel tells")]
    AfterTheKernelTells,
}

/// Whether to guard new interfaces at once.
///
/// It costs something where nftables is older than the kernel: `nft list ruleset` of nftables 1.0.6
/// and 1.1.3 never ends when it meets a rule in a chain for all devices (1.1.7 shows it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// Where the host's nft, if it has one, can read such a chain.
    #[default]
    WhereReadable,
    /// Wherever the kernel can.
    Always,
    /// Nowhere.
    Never,
}

const CHAIN: &str = "egress";

/// How the names of our tables begin.
const PREFIX: &str = "hyperspector-";

/// Where nft may be.
const NFT: [&str; 4] =
    ["/usr/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft", "/run/current-system/sw/bin/nft"];

/// How long nft may take to list one table.
const PATIENCE: Duration = Duration::from_secs(10);

const NFPROTO_NETDEV: u8 = 5;
const NF_NETDEV_EGRESS: u32 = 1;
const NF_ACCEPT: u32 = 1;
const NF_DROP: u32 = 0;
const NFT_REG_VERDICT: u32 = 0;
const NFT_REG32_00: u32 = 8;
const NFT_META_MARK: u32 = 3;
const NFT_CMP_EQ: u32 = 0;
/// `NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST`.
const OWNED: u32 = 6;

const NEW_TABLE: u16 = NFTABLES << 8;
const NEW_CHAIN: u16 = NFTABLES << 8 | 3;
const NEW_RULE: u16 = NFTABLES << 8 | 6;
const GET_RULE: u16 = NFTABLES << 8 | 7;
/// As deleting; a table that is not there is no error.
const DESTROY_TABLE: u16 = NFTABLES << 8 | 26;

/// `NLMSG_ERROR`, which is also how success is told.
const ANSWER: u16 = 2;

const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// The name of the table of the guard with this pin directory, the same at every start: agents that
/// share a network namespace have directories of their own.
pub(super) fn table_name(pin_dir: &Path) -> String {
    // FNV-1a: the standard library's hashes may change with its version.
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = pin_dir.as_os_str().as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, step);
    format!("{PREFIX}{hash:016x}")
}

/// The table that a name in the pin directory stands for.
pub(super) fn named(name: &OsStr) -> Option<&str> {
    name.to_str().filter(|name| name.starts_with(PREFIX))
}

/// Finds out, in a network namespace of its own, whether new interfaces can be guarded at once.
///
/// # Errors
/// The reason why not, in words.
pub(super) fn check(choice: Choice) -> Result<(), String> {
    if choice == Choice::Never {
        return Err("it is switched off".into());
    }
    let text = |error: io::Error| errno::text(&error);
    let namespace = netns::new().map_err(text)?;
    netns::within(namespace.as_fd(), || check_here(choice)).map_err(text)?
}

fn check_here(choice: Choice) -> Result<(), String> {
    // Without a rule: every nft comes to an end with that.
    let request = batch(vec![table(PREFIX, OWNED), chain(PREFIX)]);
    // Owned: the table is shown for as long as the socket is open.
    let _owner = open().and_then(|socket| transact(&socket, &request).map(|()| socket)).map_err(
        |error| format!("the kernel has no chains for all devices: {}", errno::text(&error)),
    )?;
    match choice {
        Choice::WhereReadable => {
            NFT.iter().filter(|path| Path::new(path).exists()).try_for_each(|nft| try_nft(nft))
        }
        Choice::Always | Choice::Never => Ok(()),
    }
}

/// Whether this nft sees the chain that there is.
fn try_nft(nft: &str) -> Result<(), String> {
    let shown = list(nft).map_err(|error| format!("run {nft}: {}", errno::text(&error)))?;
    if shown.contains(&format!("chain {CHAIN}")) {
        return Ok(());
    }
    Err(format!("{nft} cannot read a chain for all devices, and would never end listing its rules"))
}

fn list(nft: &str) -> io::Result<String> {
    let mut command = Command::new(nft);
    command.args(["list", "ruleset"]).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let start = Instant::now();
    while child.try_wait()?.is_none() {
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut shown = String::new();
    child.stdout.take().map(|mut out| out.read_to_string(&mut shown)).transpose()?;
    Ok(shown)
}

/// The table, and the socket that owns it.
#[derive(Debug)]
pub(super) struct Egress {
    owner: Mutex<Socket>,
    name: String,
}

impl Egress {
    /// Makes the table in the current network namespace, in place of one that a dead guard has left,
    /// whose count it takes over. There is no moment without either.
    ///
    /// # Errors
    /// `EPERM` where a living process owns the table.
    pub(super) fn set_up(name: &str) -> io::Result<Self> {
        // Written down first: what is recorded and absent does no harm, the reverse would stay.
        remove_if_there(fs::create_dir(name))?;
        let mut owner = open()?;
        let before = count(&mut owner, name).unwrap_or_default();
        let steps = vec![destroy(name), table(name, OWNED), chain(name), rule(name, before)];
        transact(&owner, &batch(steps))?;
        Ok(Self { owner: Mutex::new(owner), name: name.to_owned() })
    }

    /// Packets dropped so far.
    pub(super) fn dropped(&self) -> io::Result<u64> {
        count(&mut self.owner.lock().unwrap_or_else(PoisonError::into_inner), &self.name)
    }
}

/// Removes the table from the current network namespace; an absent one is no error.
///
/// # Errors
/// `EPERM` where a living process owns it.
pub(super) fn remove(name: &str) -> io::Result<()> {
    transact(&open()?, &batch(vec![destroy(name)]))
}

/// Removes what an earlier guard may have made and recorded, where there is to be no table now.
pub(super) fn forget(name: &str) -> io::Result<()> {
    if fs::exists(name)? {
        remove(name)?;
        fs::remove_dir(name)?;
    }
    Ok(())
}

fn open() -> io::Result<Socket> {
    Socket::open(Some(nl::NETFILTER), 0)
}

/// Has the kernel do all or nothing of a batch.
fn transact(socket: &Socket, request: &[u8]) -> io::Result<()> {
    send(socket, request, SendFlags::empty())?;
    let mut buffer = [0; 8192];
    // The kernel works it off before `send` returns, so there is nothing to wait for.
    let (got, _) = recv(socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
    // Steps are answered in their order: the first error is what went wrong.
    let answer = messages(&buffer[..got]).find(|message| message.kind == ANSWER);
    match answer.map(|message| refusal(message.body)) {
        Some(error) if error.raw_os_error() == Some(0) => Ok(()),
        Some(error) => Err(error),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The packets that the table's rules have counted.
fn count(socket: &mut Socket, name: &str) -> io::Result<u64> {
    let body = [header(NFPROTO_NETDEV, 0), attribute(1, &string(name))].concat();
    let mut packets = 0;
    socket.dump(GET_RULE, &body, |message| {
        packets += message.body.get(4..).map_or(0, counted);
    })?;
    Ok(packets)
}

/// The packets in the counters of a rule.
fn counted(rule: &[u8]) -> u64 {
    let expressions = all(rule, NFTA_RULE_EXPRESSIONS).flat_map(|list| all(list, ELEMENT));
    expressions
        .filter(|expression| {
            all(expression, NFTA_EXPR_NAME).any(|name| name.starts_with(b"counter\0"))
        })
        .flat_map(|expression| all(expression, NFTA_EXPR_DATA))
        .flat_map(|data| all(data, NFTA_COUNTER_PACKETS))
        .filter_map(|packets| Some(u64::from_be_bytes(packets.try_into().ok()?)))
        .sum()
}

/// The values of all attributes of this number.
fn all(bytes: &[u8], wanted: u16) -> impl Iterator<Item = &[u8]> {
    attributes(bytes).filter(move |(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn destroy(name: &str) -> Vec<u8> {
    step(DESTROY_TABLE, &[attribute(1, &string(name))])
}

fn table(name: &str, flags: u32) -> Vec<u8> {
    step(NEW_TABLE, &[attribute(1, &string(name)), number(2, flags)])
}

/// A chain on the egress of every device, ahead of all others there.
fn chain(table: &str) -> Vec<u8> {
    // NFTA_DEVICE_PREFIX: every name begins with nothing.
    let devices = nested(4, &[attribute(2, &string(""))]);
    let hook = [number(1, NF_NETDEV_EGRESS), number(2, i32::MIN.cast_unsigned()), devices];
    step(
        NEW_CHAIN,
        &[
            attribute(1, &string(table)),
            attribute(3, &string(CHAIN)),
            nested(4, &hook),
            number(5, NF_ACCEPT),
            attribute(7, &string("filter")),
        ],
    )
}

/// `meta mark MARK counter packets BEFORE drop`.
fn rule(table: &str, before: u64) -> Vec<u8> {
    let mark = nested(3, &[attribute(1, &MARK.to_ne_bytes())]);
    let drop = nested(2, &[nested(2, &[number(1, NF_DROP)])]);
    let expressions = [
        expression("meta", &[number(1, NFT_REG32_00), number(2, NFT_META_MARK)]),
        expression("cmp", &[number(1, NFT_REG32_00), number(2, NFT_CMP_EQ), mark]),
        expression("counter", &[attribute(NFTA_COUNTER_PACKETS, &before.to_be_bytes())]),
        expression("immediate", &[number(1, NFT_REG_VERDICT), drop]),
    ];
    step(
        NEW_RULE,
        &[
            attribute(1, &string(table)),
            attribute(2, &string(CHAIN)),
            nested(NFTA_RULE_EXPRESSIONS, &expressions),
        ],
    )
}

fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
    let parts = [attribute(NFTA_EXPR_NAME, &string(name)), nested(NFTA_EXPR_DATA, data)];
    nested(ELEMENT, &parts)
}

/// One step of a batch.
fn step(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    let flags = if kind == DESTROY_TABLE { REQUEST } else { REQUEST | CREATE };
    message(kind, flags, &[header(NFPROTO_NETDEV, 0), attributes.concat()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperspector_sys::nft::message::{ACK, BATCH_BEGIN, BATCH_END};

    #[test]
    fn a_table_is_named_after_the_pin_directory_alone() {
        let name = table_name(Path::new("/run/a/bpf/guard"));
        assert_eq!(name, table_name(Path::new("/run/a/bpf/guard")));
        assert_ne!(name, table_name(Path::new("/run/b/bpf/guard")));
        assert_eq!(named(OsStr::new(&name)), Some(&*name));
        // What the pin directory also holds; and bpffs takes no dots.
        assert_eq!(["12", "dropped", "qdisc-1"].map(|name| named(OsStr::new(name))), [None; 3]);
        assert!(!name.contains('.') && name.len() < 128);
    }

    #[test]
    fn a_batch_is_bounded_and_answered_once() {
        let request = batch(vec![destroy("t"), table("t", OWNED), chain("t"), rule("t", 0)]);
        let kinds: Vec<_> = messages(&request).map(|message| message.kind).collect();
        let steps = [DESTROY_TABLE, NEW_TABLE, NEW_CHAIN, NEW_RULE];
        assert_eq!(kinds, [&[BATCH_BEGIN], &steps[..], &[BATCH_END]].concat());
        let flags = (REQUEST | CREATE | ACK).to_ne_bytes();
        let answered = [NEW_RULE.to_ne_bytes(), flags].concat();
        assert!(request.windows(4).any(|bytes| bytes == answered));
        let subsystem = messages(&request).next().unwrap().body.to_vec();
        assert_eq!(subsystem, [0, 0, 0, 10]);
    }

    #[test]
    fn a_chain_is_hooked_to_the_egress_of_all_devices() {
        let request = chain("t");
        let chain = messages(&request).next().unwrap();
        assert_eq!(chain.body[0], NFPROTO_NETDEV);
        let hook: Vec<_> = all(&chain.body[4..], 4).flat_map(attributes).collect();
        let devices: &[u8] = &[5, 0, 2, 0, 0, 0, 0, 0];
        assert_eq!(hook, [(1, &[0, 0, 0, 1][..]), (2, &[0x80, 0, 0, 0]), (4, devices)]);
    }

    #[test]
    fn the_count_of_a_rule_is_read_as_written() {
        let request = rule("t", 41);
        let read = |bytes: &[u8]| counted(&messages(bytes).next().unwrap().body[4..]);
        assert_eq!(read(&request), 41);
        // A message cut off anywhere has no count, and does no harm.
        let body = messages(&request).next().unwrap().body;
        assert!((4..body.len()).all(|end| matches!(counted(&body[4..end]), 0 | 41)));
    }
}

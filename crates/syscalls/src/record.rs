//! The records that come from the BPF program, and that readers get: the layout of bpf/syscalls.h.
//!
//! Any bytes can be read; what is not a record is an error, and nothing else.

mod control;

pub(crate) use control::MAGIC;
pub use control::{Start, machine};

/// A record's kind, as its byte.
pub(crate) mod kind {
    pub const CALL: u8 = 1;
    pub const ENTRY: u8 = 2;
    pub const TASK: u8 = 3;
    pub const FILE: u8 = 4;
    pub const END: u8 = 5;
    pub const LOST: u8 = 6;
    pub const START: u8 = 8;
    pub const MISSED: u8 = 9;
    pub const GAP: u8 = 10;
    pub const REFUSED: u8 = 11;
}

/// What is special about a call's record.
pub mod mark {
    /// It was under way when tracing began.
    pub const UNDER_WAY: u16 = 1;
    /// It never returned.
    pub const NO_RETURN: u16 = 2;
    /// Data of its entry were lost.
    pub const ENTRY_LOST: u16 = 4;
    /// Not all of its data had room.
    pub const SHORTENED: u16 = 8;
    /// A record of its entry came before, of the same thread.
    pub const HAS_ENTRY: u16 = 16;
}

/// What is special about an item.
pub mod item_mark {
    /// It was read after the call: it may have changed meanwhile.
    pub const AT_EXIT: u8 = 1;
    /// There was more.
    pub const MORE: u8 = 2;
    /// The memory could not be read.
    pub const FAULT: u8 = 4;
    /// The call has written it.
    pub const OUT: u8 = 8;
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends too early.
    #[error("a record ends after {0} bytes")]
    Short(usize),
    /// No such kind; a later version may have it, and it can be left out.
    #[error("there is no record of kind {0}")]
    Kind(u8),
    /// A START record of something else.
    #[error("it begins as no stream of system calls does")]
    Magic,
}

/// What all records begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which calling convention: 0 native, 1 32-bit, 2 x32.
    pub abi: u8,
    /// See [`mark`].
    pub marks: u16,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time: u64,
    /// The process, in the initial PID namespace.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A call that has ended.
    Call(Head, Call<'a>),
    /// Data of the entry of a call that is under way.
    Entry(Head, Call<'a>),
    /// Who a thread is.
    Task(Head, Task<'a>),
    /// A file that calls refer to.
    File(Head, File<'a>),
    /// A thread has ended; how, as wait(2) tells it, where that is known.
    End(Head, Option<u32>),
    /// Records were lost on the processor that is `tid` in the head.
    Lost(Head, u64),
    /// A stream begins, or its clock is another.
    Start(Head, Start<'a>),
    /// So many records were not kept for this reader, which was too slow.
    Missed(Head, u64),
    /// There was no tracer since that time, up to that of the head; 0 where it is not known.
    Gap(Head, u64),
    /// The reader's request is refused, for this reason; the stream ends.
    Refused(Head, &'a [u8]),
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// Its number.
    pub number: u32,
    /// The processor that it ended on.
    pub cpu: u32,
    /// How long it took, in nanoseconds.
    pub duration: u64,
    /// Its result; a negated errno where it failed.
    pub result: i64,
    /// Its arguments, as they were at its entry.
    pub args: [u64; 6],
    items: &'a [u8],
}

/// A piece of data of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// Which argument; 6 for what belongs to the call as a whole.
    pub arg: u8,
    /// What of it.
    pub part: Part,
    /// See [`item_mark`].
    pub marks: u8,
    /// Which element of a vector.
    pub index: u8,
    /// The bytes.
    pub bytes: &'a [u8],
}

/// What an item is of its argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What it points at.
    Bytes,
    /// A string of a vector.
    Element,
    /// What an I/O vector's element points at.
    VectorData,
    /// A message's address.
    Name,
    /// An I/O vector.
    Vector,
    /// A message's control data.
    Control,
    /// The identity of the file that a descriptor stands for.
    File,
    /// The identity of the working directory.
    WorkingDirectory,
    /// The identity of the program's file.
    Program,
    /// How many there are.
    Count,
    /// One that this version does not know.
    Other(u8),
}

impl Part {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Bytes,
            1 => Self::Element,
            2 => Self::VectorData,
            3 => Self::Name,
            4 => Self::Vector,
            5 => Self::Control,
            6 => Self::File,
            7 => Self::WorkingDirectory,
            8 => Self::Program,
            9 => Self::Count,
            other => Self::Other(other),
        }
    }
}

/// Who a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task<'a> {
    /// The parent process.
    pub parent: u32,
    /// User ids in the initial user namespace: real, effective, saved, of files.
    pub uid: [u32; 4],
    /// Group ids, likewise.
    pub gid: [u32; 4],
    /// The user that logged in; `u32::MAX` for nobody.
    pub login: u32,
    /// The audit session; `u32::MAX` for none.
    pub session: u32,
    /// What it calls itself, up to the first zero.
    pub comm: &'a [u8],
    /// The identity of its program's file; 0 for none.
    pub program: u64,
    /// The process's and the thread's number in the server's own PID namespace; 0 where they have none.
    pub own: [u32; 2],
}

/// A file, directory, pipe, socket or what else a descriptor can stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Its identity in other records.
    pub id: u64,
    /// Its number in its file system.
    pub inode: u64,
    /// The file system's device, as the kernel writes it: 20 bits of minor number.
    pub device: u32,
    /// Its type and mode (inode(7)).
    pub mode: u32,
    /// Its owner and its group, in the initial user namespace.
    pub owner: [u32; 2],
    /// Of a device file: the device, as the kernel writes it.
    pub special: u32,
    /// What it is called.
    pub place: Place<'a>,
}

/// What a file is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// By its path, from the process's root.
    Path {
        /// Its names, the last one first.
        names: Vec<&'a [u8]>,
        /// Whether these are all.
        is_whole: bool,
        /// Whether it has been removed.
        is_deleted: bool,
        /// Whether it is outside the process's root.
        is_outside: bool,
    },
    /// By its addresses.
    Socket(Socket<'a>),
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket<'a> {
    /// Its address family.
    pub family: u16,
    /// `SOCK_STREAM` and so on.
    pub kind: u16,
    /// Its protocol.
    pub protocol: u16,
    /// Local and peer's addresses, of 4 or 16 bytes as the family has it.
    pub addresses: [[u8; 16]; 2],
    /// Local and peer's ports.
    pub ports: [u16; 2],
    /// Local and peer's names of a Unix socket.
    pub names: [&'a [u8]; 2],
}

/// Reads numbers off the front of bytes.
pub(crate) struct Reader<'a>(&'a [u8], usize);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Short(self.1))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| Malformed::Short(self.1))
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_ne_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_ne_bytes)
    }
}

/// The record that `bytes` begin with, and how many of them it takes.
///
/// # Errors
/// Where they begin with none.
pub fn read(bytes: &[u8]) -> Result<(Record<'_>, usize), Malformed> {
    let mut head = Reader(bytes, bytes.len());
    let length = head.u32()? as usize;
    let taken = bytes.get(..length).ok_or(Malformed::Short(bytes.len()))?;
    let mut rest = Reader(taken, length);
    rest.take(4)?;
    let kind = rest.byte()?;
    let head = Head {
        abi: rest.byte()?,
        marks: rest.u16()?,
        time: rest.u64()?,
        pid: rest.u32()?,
        tid: rest.u32()?,
    };
    let record = match kind {
        kind::CALL => Record::Call(head, call(&mut rest)?),
        kind::ENTRY => Record::Entry(head, call(&mut rest)?),
        kind::TASK => Record::Task(head, task(&mut rest)?),
        kind::FILE => Record::File(head, file(&mut rest)?),
        kind::END => {
            // A thread's status is in the lower half; the upper one says that it is there.
            let status = rest.u64().unwrap_or_default();
            let is_known = status >> 32 != 0;
            Record::End(head, is_known.then_some((status & 0xffff_ffff) as u32))
        }
        kind::LOST => Record::Lost(head, rest.u64()?),
        kind::START => Record::Start(head, control::start(&mut rest)?),
        kind::MISSED => Record::Missed(head, rest.u64()?),
        kind::GAP => Record::Gap(head, rest.u64()?),
        kind::REFUSED => Record::Refused(head, control::text(&mut rest)?),
        other => return Err(Malformed::Kind(other)),
    };
    Ok((record, length))
}

fn call<'a>(rest: &mut Reader<'a>) -> Result<Call<'a>, Malformed> {
    let (number, cpu) = (rest.u32()?, rest.u32()?);
    let (duration, result) = (rest.u64()?, rest.u64()?.cast_signed());
    let mut args = [0; 6];
    for arg in &mut args {
        *arg = rest.u64()?;
    }
    Ok(Call { number, cpu, duration, result, args, items: rest.0 })
}

impl<'a> Call<'a> {
    /// Its data, in order. What is malformed ends them.
    pub fn items(&self) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let mut rest = Reader(self.items, self.items.len());
        std::iter::from_fn(move || item(&mut rest).ok())
    }
}

fn item<'a>(rest: &mut Reader<'a>) -> Result<Item<'a>, Malformed> {
    let [arg, part, marks, index] = rest.array()?;
    let length = rest.u32()? as usize;
    let bytes = rest.take(length)?;
    // The last one's padding may be missing.
    let _ = rest.take(length.wrapping_neg() & 7);
    Ok(Item { arg, part: Part::from_byte(part), marks, index, bytes })
}

fn task<'a>(rest: &mut Reader<'a>) -> Result<Task<'a>, Malformed> {
    let parent = rest.u32()?;
    let [uid, gid, euid, egid, suid, sgid, fsuid, fsgid] = [(); 8].map(|()| rest.u32());
    let (login, session) = (rest.u32()?, rest.u32()?);
    rest.u32()?;
    let comm = rest.take(16)?;
    let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let (uid, gid) = ([uid?, euid?, suid?, fsuid?], [gid?, egid?, sgid?, fsgid?]);
    let program = rest.u64()?;
    // Not there in streams of before.
    let own = [rest.u32().unwrap_or(0), rest.u32().unwrap_or(0)];
    Ok(Task { parent, uid, gid, login, session, comm, program, own })
}

fn file<'a>(rest: &mut Reader<'a>) -> Result<File<'a>, Malformed> {
    let (id, inode) = (rest.u64()?, rest.u64()?);
    let (device, mode) = (rest.u32()?, rest.u32()?);
    let [family, kind, protocol, local_port, peer_port, _] = [(); 6].map(|()| rest.u16());
    let found = rest.u32()?;
    let addresses = [rest.array()?, rest.array()?];
    let (owner, special) = ([rest.u32()?, rest.u32()?], rest.u32()?);
    rest.u32()?;
    let mut names = Vec::new();
    // Padding reads as names without letters.
    while let Ok(length) = rest.byte() {
        names.push(rest.take(usize::from(length))?);
    }
    let place = if mode & 0o170_000 == 0o140_000 {
        let name = |index| names.get(index).copied().unwrap_or_default();
        Place::Socket(Socket {
            family: family?,
            kind: kind?,
            protocol: protocol?,
            addresses,
            ports: [local_port?, peer_port?],
            names: [name(0), name(1)],
        })
    } else {
        names.retain(|name| !name.is_empty());
        Place::Path {
            names,
            is_whole: found & 1 != 0,
            is_deleted: found & 2 != 0,
            is_outside: found & 4 != 0,
        }
    };
    Ok(File { id, inode, device, mode, owner, special, place })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(kind: u8, length: u32) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend([kind, 0, 0, 0]);
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend(2_u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn loss_is_read() {
        let mut bytes = head(kind::LOST, 32);
        bytes.extend(9_u64.to_ne_bytes());
        let wanted = Head { abi: 0, marks: 0, time: 7, pid: 1, tid: 2 };
        assert_eq!(read(&bytes), Ok((Record::Lost(wanted, 9), 32)));
        assert_eq!(read(&bytes[..31]), Err(Malformed::Short(31)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(kind in 0_u8..13, body in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = head(kind, 24 + u32::try_from(body.len()).unwrap());
            bytes.extend(body);
            if let Ok((record, length)) = read(&bytes) {
                prop_assert_eq!(length, bytes.len());
                if let Record::Call(_, call) = record {
                    prop_assert!(call.items().map(|item| item.bytes.len()).sum::<usize>() <= length);
                }
            }
        }

        #[test]
        fn bytes_without_a_head_are_no_trouble(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(&bytes);
        }
    }
}

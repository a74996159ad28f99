//! What the agent, the keeper and the tee say to each other.

use std::path::PathBuf;

pub use hyperspector_sys::worker::Started;
use serde::{Deserialize, Serialize};

use super::SocketKind;
use super::batch::Sender;
use super::place::FileId;

/// The number of a source: a socket of the server.
pub(super) type SourceId = u16;

/// The number of a reader: a source and a portspace.
pub(super) type ReaderId = u16;

/// A socket of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What the agent knows it by: its path, say.
    pub name: String,
    /// Its kind.
    pub kind: SocketKind,
    /// Whether the server's own receiver has it, and what comes with this is the ring of the BPF
    /// program on it; else it is the socket itself, bound and, where it takes connections, listening.
    pub observed: bool,
    /// What the server's user and group ids are more than by the host's count, for the lines that
    /// say who has sent a message.
    pub shift: u32,
    /// Where the server's own receiver is, where it takes connections: ours stands in its place.
    pub upstream: Option<Upstream>,
}

/// The socket of a server's own receiver, for which ours was exchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// A process through whose root it can be reached; `None` for the keeper's own.
    pub process: Option<Process>,
    /// The server's directory there.
    pub tree: PathBuf,
    /// The socket's path in it.
    pub path: PathBuf,
}

/// A reader of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reader {
    /// What the agent knows it by; another of the same name takes the place of the first, and its ring.
    pub name: String,
    /// The source's name.
    pub source: String,
    /// Where it listens, in its own root directory.
    pub to: PathBuf,
    /// How much may wait for it, in bytes.
    pub queue: u64,
    /// Whether each message comes after a line that says who has sent it.
    pub senders: bool,
}

/// A process, in whose root directory a reader listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in the kernel's ticks: a number alone may come to mean another process.
    pub start: u64,
}

/// Where a reader listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// In the root directory of this process.
    pub process: Process,
    /// How many datagrams may wait in a socket there (`net.unix.max_dgram_qlen` of its network), which
    /// nobody there can change. A reader that is killed gets so many again.
    pub queue: u32,
}

/// The reader's socket that a connection leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    /// The file that it is bound to. Another one that is bound there later may get the same numbers.
    pub(super) file: FileId,
    /// The number of a datagram socket itself, as in `socket:[NUMBER]`.
    pub(super) socket: Option<u32>,
    /// How many datagrams it holds.
    pub(super) queue: u32,
}

/// What the agent asks of a keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// This source, whose descriptor comes with it, is there from now on; one of the same name is
    /// no more.
    Source(Source),
    /// This source is no more. Its readers stay.
    NoSource(String),
    /// This reader is wanted from now on, and listens there; what comes before it is there waits.
    Reader(Reader, Option<Seat>),
    /// This reader is no more, and what waits for it neither.
    NoReader(String),
    /// How are you?
    Status,
    /// End, and the tee too.
    Stop,
}

/// What a keeper answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// Not done, for this reason.
    Refused(String),
    /// To [`Request::Status`].
    Status(Status),
}

/// How a server's tee is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The tee's process id.
    pub tee: Option<u32>,
    /// How often it was started again.
    pub restarts: u64,
    /// The sources.
    pub sources: Vec<SourceStatus>,
    /// The readers.
    pub readers: Vec<ReaderStatus>,
}

/// How a source is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Whether it is there; what stays of one that is not are its readers.
    pub open: bool,
    /// Messages that came, or of a stream pieces of it.
    pub received: u64,
    /// Messages that were longer than [`super::LARGEST_MESSAGE`], and cut.
    pub cut: u64,
    /// Messages that came with descriptors, which were dropped.
    pub descriptors: u64,
    /// Messages that came faster than they could be observed.
    pub missed: u64,
    /// Connections that are open.
    pub connections: usize,
    /// Connections that were closed at once, since there were too many.
    pub refused: u64,
}

/// How a reader is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderStatus {
    /// Its name.
    pub name: String,
    /// Messages that were put into its ring.
    pub accepted: u64,
    /// Messages that it has taken.
    pub delivered: u64,
    /// Messages, or of a stream bytes, that were lost since its ring was full.
    pub lost: u64,
    /// Bytes that wait in its ring.
    pub waiting: u64,
    /// Why it cannot be reached, where that is so.
    pub problem: Option<String>,
}

/// What a keeper tells a tee, in this order at the start; and what a tee hands over to another
/// keeper. The descriptors that come with each are named.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToTee {
    /// An empty directory, the memory of the intake, the socket for the next keeper.
    Start {
        uid: u32,
        gid: u32,
    },
    /// The socket or the BPF ring.
    Source(SourceId, Source),
    NoSource(SourceId),
    /// Its ring.
    Reader(ReaderId, SourceId, Reader),
    NoReader(ReaderId),
    /// The connection of a writer; and, where it goes on to a receiver, the connection to that and the
    /// memory of both directions.
    Flow(u32, SourceId, Sender),
    /// A connection to a reader.
    Link(ReaderId, u32, Target),
    /// Say that all of this was heard.
    Say,
    /// What was asked by [`ToKeeper::Probe`]; whether that socket is there. Where the keeper cannot
    /// tell, it does not answer, and is asked again.
    Probed(ReaderId, u64, Target, bool),
    /// That is all.
    Go,
}

/// What a tee tells its keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToKeeper {
    Ready,
    Failed(String),
    /// To [`ToTee::Say`].
    Said,
    /// It has this connection of a writer.
    Took(u32),
    /// The writer has closed it.
    Ended(u32),
    /// A connection to this reader is needed, for this flow.
    Want(ReaderId, u32),
    /// It is not needed any more.
    Unlink(ReaderId, u32),
    /// Is the socket that the reader's link leads to still there? It took all up to a position, if so.
    Probe(ReaderId, u64, Target),
}

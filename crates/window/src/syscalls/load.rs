//! Loading and attaching the tracer's programs, and reading their records.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use hyperspector_syscalls::numbers::Abi;
use hyperspector_syscalls::rules;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Typedef;
use libbpf_rs::{
    Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject, RingBuffer,
    RingBufferBuilder,
};

use super::settings::{self, Scope, Settings, Shared};
use crate::packets::Embedded;

static OBJECT: &Embedded<{ include_bytes!(concat!(env!("OUT_DIR"), "/syscalls.bpf.o")).len() }> =
    &Embedded(*include_bytes!(concat!(env!("OUT_DIR"), "/syscalls.bpf.o")));

/// The program for io_uring requests.
const REQUESTS: &str = "hs_request";

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refuses the programs, or has no BTF.
    #[error(
        "load the system call tracer (Linux 6.1 or later with CONFIG_DEBUG_INFO_BTF is needed): {0}"
    )]
    Load(#[source] libbpf_rs::Error),
    /// A program could not be attached.
    #[error("attach {0}: {1}")]
    Attach(String, #[source] libbpf_rs::Error),
    /// A map could not be set up.
    #[error("set up the map {0}: {1}")]
    Map(&'static str, #[source] libbpf_rs::Error),
    /// The settings could not be shared.
    #[error("share the settings with the tracer's programs: {0}")]
    Share(#[source] io::Error),
    /// No random number.
    #[error("get a random number: {0}")]
    Random(#[source] io::Error),
}

/// Attached programs. They go with it.
pub struct Tracer {
    _links: Vec<Link>,
    records: MapHandle,
    processes: MapHandle,
    shared: Shared,
}

/// Programs that the kernel has taken, and that nothing runs yet.
pub struct Loaded {
    object: Object,
    has_requests: bool,
}

impl Loaded {
    /// Has the kernel check and take the programs, which takes it seconds. `ring` is how many bytes may
    /// wait to be read: a power of two, and at least a page.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn new(ring: u32) -> Result<Self, Error> {
        libbpf_rs::set_print(None);
        let mut open = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(Error::Load)?;
        let has_requests = has_requests();
        prepare(&mut open, ring, has_requests)?;
        let object = open.load().map_err(Error::Load)?;
        fill_rules(&object)?;
        Ok(Self { object, has_requests })
    }

    /// Has them run from now on; nobody is traced yet.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn attach(self) -> Result<Tracer, Error> {
        let Self { object, has_requests } = self;
        let shared = Shared::map(map(&object, "settings")?.as_fd()).map_err(Error::Share)?;
        let links = attach(&object, has_requests)?;
        let (records, processes) = (map(&object, "records")?, map(&object, "processes")?);
        // Programs and the other maps stay with the links; nobody needs descriptors of them.
        drop(object);
        Ok(Tracer { _links: links, records, processes, shared })
    }
}

impl Tracer {
    /// Loads and attaches the programs; nobody is traced yet. `ring` is how many bytes may wait to be
    /// read: a power of two, and at least a page.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn start(ring: u32) -> Result<Self, Error> {
        Loaded::new(ring)?.attach()
    }

    /// Sets what is recorded.
    pub fn set(&mut self, settings: &Settings) {
        self.shared.set(settings);
    }

    /// Sets whose calls are recorded.
    pub fn set_scope(&mut self, scope: &Scope) {
        self.shared.set_scope(scope);
    }

    /// Traces a process by its number, and its children to come.
    ///
    /// # Errors
    /// Where too many are traced.
    pub fn add_process(&self, pid: u32) -> Result<(), Error> {
        let added = self.processes.update(&pid.to_ne_bytes(), &[1], MapFlags::ANY);
        added.map_err(|e| Error::Map("processes", e))
    }

    /// What reads the records; `take` gets each of them.
    ///
    /// # Errors
    /// Where the ring cannot be mapped.
    pub fn reader<'a>(&self, mut take: impl FnMut(&[u8]) + 'a) -> Result<Reader<'a>, Error> {
        let mut builder = RingBufferBuilder::new();
        let callback = move |bytes: &[u8]| {
            take(bytes);
            0
        };
        builder.add(&self.records, callback).map_err(|e| Error::Map("records", e))?;
        builder.build().map(Reader).map_err(|e| Error::Map("records", e))
    }
}

/// Reads records.
pub struct Reader<'a>(RingBuffer<'a>);

impl Reader<'_> {
    /// Waits for records at most that long, and takes all there are. The programs wake it when many
    /// wait; a few are taken when the time is over.
    ///
    /// # Errors
    /// Where waiting fails.
    pub fn read(&self, patience: Duration) -> io::Result<()> {
        match self.0.poll(patience) {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::Interrupted => {
                Err(io::Error::other(error))
            }
            _ => self.0.consume().map_err(io::Error::other),
        }
    }

    /// Takes so many records at most, without waiting; gives back how many there were.
    ///
    /// # Errors
    /// Where the ring cannot be read.
    pub fn take(&self, most: usize) -> io::Result<usize> {
        let taken = self.0.consume_raw_n(most);
        usize::try_from(taken).map_err(|_| io::Error::from_raw_os_error(-taken))
    }

    /// What becomes readable when many records wait.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the ring's reader, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.0.epoll_fd()) }
    }
}

fn prepare(open: &mut OpenObject, ring: u32, has_requests: bool) -> Result<(), Error> {
    let mut secret = [0; 8];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::Random(e.into()))?;
    for mut program in open.progs_mut().filter(|program| program.name() == REQUESTS) {
        program.set_autoload(has_requests);
    }
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name == "records" {
            map.set_max_entries(ring).map_err(|e| Error::Map("records", e))?;
        } else if name.ends_with(".rodata")
            && let Some(value) = map.initial_value_mut()
            && let Some(start) = value.get_mut(..secret.len())
        {
            start.copy_from_slice(&secret);
        }
    }
    Ok(())
}

/// Whether the kernel tells of io_uring requests (Linux 6.4 with CONFIG_IO_URING).
fn has_requests() -> bool {
    let types = Btf::from_vmlinux();
    types.is_ok_and(|types| {
        types.type_by_name::<Typedef<'_>>("btf_trace_io_uring_submit_req").is_some()
    })
}

fn fill_rules(object: &Object) -> Result<(), Error> {
    let map = map(object, "rules")?;
    for (number, rules) in (0_u32..).zip(rules::rules()) {
        let bytes = rules.to_bytes();
        map.update(&number.to_ne_bytes(), &bytes, MapFlags::ANY)
            .map_err(|e| Error::Map("rules", e))?;
    }
    map.freeze().map_err(|e| Error::Map("rules", e))?;
    let commands = self::map(object, "commands")?;
    for ([number, command], rule) in rules::commands(Abi::NATIVE) {
        let key = [number.to_ne_bytes(), command.to_ne_bytes()].concat();
        commands.update(&key, &rule, MapFlags::ANY).map_err(|e| Error::Map("commands", e))?;
    }
    commands.freeze().map_err(|e| Error::Map("commands", e))
}

fn map(object: &Object, name: &'static str) -> Result<MapHandle, Error> {
    let missing = || libbpf_rs::Error::from(io::Error::from(io::ErrorKind::NotFound));
    let map = object.maps().find(|map| map.name() == name);
    let map = map.ok_or_else(|| Error::Map(name, missing()))?;
    MapHandle::try_from(&map).map_err(|e| Error::Map(name, e))
}

fn attach(object: &Object, has_requests: bool) -> Result<Vec<Link>, Error> {
    let _ = settings::SIZE;
    object
        .progs_mut()
        .filter(|program| has_requests || program.name() != REQUESTS)
        .map(|program| {
            let name = program.name().to_string_lossy().into_owned();
            program.attach().map_err(|e| Error::Attach(name, e))
        })
        .collect()
}

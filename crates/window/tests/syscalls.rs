//! The system call tracer's programs on this kernel.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hyperspector_syscalls::numbers::Abi;
use hyperspector_syscalls::record::{self, Part, Place, Record};
use hyperspector_window::syscalls::{Calls, Only, Scope, Settings, Tracer};

/// A cgroup of this test's own.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let is_v2 = |root: &&str| PathBuf::from(root).join("cgroup.procs").exists();
        let root = roots.into_iter().find(is_v2).expect("a cgroup v2 hierarchy");
        let path = PathBuf::from(root).join(format!("hs-{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn scope(&self) -> Scope {
        Scope { groups: vec![fs::metadata(&self.0).unwrap().ino()], ..Scope::default() }
    }

    /// A command that moves into the group before it is executed.
    fn shell(&self, text: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        let enter = format!("echo $$ > {}/cgroup.procs; {text}", self.0.display());
        command.args(["-c", &enter]).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn everything() -> Settings {
    Settings {
        native: Calls::ALL,
        compat: Calls::ALL,
        string: 4096,
        buffer: 256,
        files: true,
        wake: 1 << 20,
        failed_only: false,
        pids: Only::default(),
        uids: Only::default(),
    }
}

/// The records of what `command` does, as bytes.
fn traced(group: &Group, settings: &Settings, mut command: Command) -> Vec<Vec<u8>> {
    let mut tracer = Tracer::start(1 << 24).unwrap();
    tracer.set(settings);
    tracer.set_scope(&group.scope());
    let mut records = Vec::new();
    let reader = tracer.reader(|bytes| records.push(bytes.to_vec())).unwrap();
    command.status().unwrap();
    reader.read(Duration::from_millis(50)).unwrap();
    drop(reader);
    records
}

/// Who has made the calls that were recorded, and which files were opened.
fn who_and_what(records: &[Vec<u8>]) -> (BTreeSet<u32>, BTreeSet<String>) {
    let (mut pids, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for bytes in records {
        let Ok((Record::Call(head, call), _)) = record::read(bytes) else { continue };
        pids.insert(head.pid);
        let texts = call.items().filter(|item| item.part == Part::Bytes && item.arg == 1);
        paths.extend(texts.map(|item| String::from_utf8_lossy(item.bytes).into_owned()));
    }
    (pids, paths)
}

#[test]
fn whom_nobody_asks_about_is_not_recorded() {
    let group = Group::new("whom");
    let mut tracer = Tracer::start(1 << 24).unwrap();
    tracer.set_scope(&group.scope());
    let mut line = group.shell("read line; cat /etc/passwd; cd /etc");
    let mut child = line.stdin(Stdio::piped()).spawn().unwrap();
    tracer.set(&Settings { pids: Only::of([child.id(), 4_000_000]), ..everything() });
    let mut records = Vec::new();
    let reader = tracer.reader(|bytes| records.push(bytes.to_vec())).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    reader.read(Duration::from_millis(50)).unwrap();
    drop(reader);
    assert_eq!(who_and_what(&records).0, [child.id()].into());

    let change = "setpriv --reuid 65534 --clear-groups cat /etc/hostname; cat /etc/passwd";
    let only = |uid| Settings { uids: Only::of([uid]), ..everything() };
    let (_, paths) = who_and_what(&traced(&group, &only(65534), group.shell(change)));
    assert!(paths.contains("/etc/hostname") && !paths.contains("/etc/passwd"), "{paths:?}");
    let (_, paths) = who_and_what(&traced(&group, &only(0), group.shell(change)));
    assert!(!paths.contains("/etc/hostname") && paths.contains("/etc/passwd"), "{paths:?}");
    let (pids, _) = who_and_what(&traced(&group, &only(12_345), group.shell(change)));
    assert!(pids.is_empty(), "{pids:?}");
}

#[test]
fn calls_of_a_group_are_recorded_with_what_they_mean() {
    let group = Group::new("syscalls");
    let records = traced(
        &group,
        &everything(),
        group.shell("cat /etc/hostname; cat /nonexistent-file; true"),
    );
    let parsed: Vec<Record<'_>> =
        records.iter().map(|bytes| record::read(bytes).unwrap().0).collect();
    if std::env::var_os("SHOW").is_some() {
        for record in &parsed {
            println!("{record:?}");
            if let Record::Call(_, call) | Record::Entry(_, call) = record {
                for item in call.items() {
                    println!(
                        "    {} {:?} {:?}",
                        Abi::NATIVE.name(call.number).unwrap_or("?"),
                        item.part,
                        String::from_utf8_lossy(item.bytes)
                    );
                }
            }
        }
    }
    assert!(!parsed.iter().any(|record| matches!(record, Record::Lost(..))));
    let calls = || {
        parsed.iter().filter_map(|record| match record {
            Record::Call(head, call) => Some((head, call)),
            _ => None,
        })
    };
    let open = Abi::NATIVE.number("openat").unwrap();
    let named = |call: &record::Call<'_>, name: &[u8]| {
        call.number == open && call.items().any(|item| item.arg == 1 && item.bytes == name)
    };
    let (_, opened) = calls().find(|(_, call)| named(call, b"/etc/hostname")).unwrap();
    assert!(opened.result > 2);
    let id = opened.items().find(|item| item.arg == 6 && item.part == Part::File).unwrap().bytes;
    let id = u64::from_ne_bytes(id.try_into().unwrap());
    let file = parsed.iter().find_map(|record| match record {
        Record::File(_, file) if file.id == id => Some(file),
        _ => None,
    });
    let Place::Path { names, is_whole, .. } = &file.unwrap().place else { panic!("{file:?}") };
    assert_eq!((names.as_slice(), *is_whole), ([&b"hostname"[..], b"etc"].as_slice(), true));
    let (_, failed) = calls().find(|(_, call)| named(call, b"/nonexistent-file")).unwrap();
    assert_eq!(failed.result, -i64::from(libc::ENOENT));
    let exec = Abi::NATIVE.number("execve").unwrap();
    let words = |call: &record::Call<'_>| {
        let of_argv = call.items().filter(|item| item.arg == 1);
        of_argv.map(|item| String::from_utf8_lossy(item.bytes).into_owned()).collect::<Vec<_>>()
    };
    // The environment is long: what was read at the call's entry came in a record before it.
    let entries = || {
        parsed.iter().filter_map(|record| match record {
            Record::Entry(_, call) => Some(call),
            _ => None,
        })
    };
    let cat =
        |call: &record::Call<'_>| call.number == exec && words(call) == ["cat", "/etc/hostname"];
    assert!(calls().map(|(_, call)| call).chain(entries()).any(cat));
    let exit = Abi::NATIVE.number("exit_group").unwrap();
    assert!(
        calls()
            .any(|(head, call)| call.number == exit && head.marks & record::mark::NO_RETURN != 0)
    );
}

/// Opens a file and reads it, both through a ring: of itself as a program in the group.
#[test]
fn requests_through_a_ring_are_seen() {
    if let Some(group) = std::env::var_os("IN_GROUP") {
        fs::write(PathBuf::from(group).join("cgroup.procs"), "0").unwrap();
        return read_by_ring();
    }
    let group = Group::new("ring");
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "requests_through_a_ring_are_seen"]).env("IN_GROUP", &group.0);
    again.stdout(Stdio::null());
    let records = traced(&group, &everything(), again);
    let name = |call: &record::Call<'_>| Abi::NATIVE.name(call.number);
    let requests: Vec<_> = records
        .iter()
        .filter_map(|bytes| match record::read(bytes).unwrap().0 {
            Record::Call(head, call) if name(&call) == Some("io_uring_request") => {
                assert_eq!(head.marks, record::mark::NO_RETURN);
                Some((call.args, call.items().filter(|item| item.part == Part::File).count()))
            }
            _ => None,
        })
        .collect();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let version: Vec<u32> = release.split('.').filter_map(|part| part.parse().ok()).collect();
    if version < vec![6, 4] {
        assert!(requests.is_empty(), "this kernel tells of requests, which docs/kernels.md denies");
        return;
    }
    let [(opening, 0), (reading, 1)] = requests[..] else { panic!("{requests:?}") };
    let (none, open, read) = (u64::from(u32::MAX), 18, 22);
    assert_eq!(opening, [open, none, 7, 0, 0, 0]);
    assert_eq!([reading[0], reading[2], reading[3]], [read, 8, 0]);
    assert!((3..100).contains(&reading[1]), "{reading:?}");
}

fn read_by_ring() {
    let mut ring = io_uring::IoUring::new(4).unwrap();
    let mut submit = |entry: io_uring::squeue::Entry| {
        // SAFETY: what the entry points at lives until its completion, which is waited for.
        unsafe { ring.submission().push(&entry) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        ring.completion().next().unwrap().result()
    };
    let at = io_uring::types::Fd(libc::AT_FDCWD);
    let open = io_uring::opcode::OpenAt::new(at, c"/etc/hostname".as_ptr()).build();
    let fd = io_uring::types::Fd(submit(open.user_data(7)));
    let mut buffer = [0; 64];
    let size = u32::try_from(buffer.len()).unwrap();
    let read = io_uring::opcode::Read::new(fd, buffer.as_mut_ptr(), size).build();
    assert!(submit(read.user_data(8)) > 0);
}

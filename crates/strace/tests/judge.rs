//! The program beside real strace(1), on the same processes at once: the same lines, the same counts.

#[path = "../../window/tests/strace/group.rs"]
mod group;
#[path = "../../window/tests/strace/lines.rs"]
mod lines;
mod serve;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use group::{Group, everything, slowdown, traced};
use serve::serve;

/// What is run: one thing after the other, so that strace's lines are whole.
const SCRIPT: &str = "cd /tmp; ls -l /etc /proc/self/fd; cat /etc/hostname /nonexistent; sort /etc/passwd; \
     touch hs-judge; chmod 600 hs-judge; rm hs-judge; uname -a; id; \
     /usr/bin/python3 -c 'import socket\ns = socket.socket()\ns.connect_ex((\"127.0.0.1\", 1))'; (exit 3)";

const PATIENCE: Duration = Duration::from_secs(30);

fn ended(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE * slowdown();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < deadline, "not ended in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ours(place: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyperspector-strace"));
    command.arg("--sockets").arg(place).args(args).stdin(Stdio::null());
    command.spawn().unwrap()
}

fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}

/// A line without its time, and without how long the call took.
fn timeless(line: &str) -> Option<String> {
    let (tid, rest) = line.trim_start().split_once(' ')?;
    let (_, rest) = rest.trim_start().split_once(' ')?;
    let end = rest.rfind(" <").filter(|_| rest.ends_with('>')).unwrap_or(rest.len());
    Some(format!("{tid:<5} {}", &rest[..end]))
}

/// Lines that strace wrote whole, after the script has entered its group.
fn whole(text: &str) -> Vec<String> {
    let begin = text.find("/cgroup.procs>, \"").unwrap_or_default();
    let is_whole = |line: &&str| !line.contains("unfinished ...>") && !line.contains(" resumed>");
    text[begin..].lines().skip(1).filter(is_whole).filter_map(timeless).collect()
}

#[test]
fn lines_are_strace_s_lines() {
    let group = Group::new("ours");
    let place = tempfile::tempdir().unwrap();
    let out = tempfile::NamedTempFile::new().unwrap();
    let theirs = tempfile::NamedTempFile::new().unwrap();
    let text = |file: &tempfile::NamedTempFile| fs::read_to_string(file.path()).unwrap();
    let style = ["-tt", "-T", "-y", "-s", "128", "-o"];
    let mut command = Command::new("strace");
    command.arg("-f").args(style).arg(theirs.path());
    let script = format!("{}; {SCRIPT}", group.enter());
    command.args(["sh", "-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    let (records, has_ended) = traced(&group, command, PATIENCE);
    assert!(has_ended);
    let listener = serve::listen(place.path());
    let mut child = ours(place.path(), &[&style[..], &[out.path().to_str().unwrap()]].concat());
    serve(&listener, &records);
    interrupt(&child);
    assert!(ended(&mut child).success());
    let (theirs, mine) = (text(&theirs), text(&out));
    let told: std::collections::BTreeSet<_> = mine.lines().filter_map(timeless).collect();
    let lines = whole(&theirs);
    let missing: Vec<_> = lines
        .iter()
        .filter(|line| !told.contains(*line) && !line.contains(" --- ") && !line.contains(" +++ "))
        .collect();
    println!("{} lines of strace's, {} not among ours", lines.len(), missing.len());
    assert!(lines.len() > 500 && missing.is_empty(), "{missing:#?}");
    let threads = lines::of_strace(&theirs);
    let begin = format!("1 00:00:00 write(1</x/cgroup.procs>) = 1\n{mine}");
    let mut ours = lines::of_strace(&begin);
    // The call that entered the group was under way.
    let entering = ours.values_mut().find(|lines| lines[0].name == "write").unwrap();
    entering.remove(0);
    assert!(threads.keys().eq(ours.keys()));
    for (tid, theirs) in &threads {
        let other = theirs.iter().zip(&ours[tid]).find(|(a, b)| a.name != b.name);
        assert!(other.is_none(), "{tid}: {other:?}");
        assert_eq!(theirs.len(), ours[tid].len(), "{tid}: {:?}", theirs.last());
    }
}

/// Calls and errors by name, of a table as `strace -c` writes it.
fn counts(table: &str) -> BTreeMap<String, (u64, u64)> {
    let lines = table.lines().skip_while(|line| !line.starts_with("---")).skip(1);
    let mut counts = BTreeMap::new();
    for line in lines.take_while(|line| !line.starts_with("---")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |place: usize| words[place].parse().unwrap();
        let errors = if words.len() == 6 { number(4) } else { 0 };
        counts.insert(words[words.len() - 1].to_owned(), (number(3), errors));
    }
    counts
}

#[test]
fn counts_are_strace_s_counts() {
    let group = Group::new("counts");
    let place = tempfile::tempdir().unwrap();
    let theirs = tempfile::NamedTempFile::new().unwrap();
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut shell = Command::new("sh");
    // Reads the second line with strace attached.
    let script = format!("{}; echo ready; read x; {SCRIPT}", group.enter());
    shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut shell = shell.spawn().unwrap();
    let pid = shell.id().to_string();
    let mut lines = BufReader::new(shell.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-w", "-p", &pid, "-o"]).arg(theirs.path()).stderr(Stdio::piped());
    let mut strace = strace.spawn().unwrap();
    let mut told = String::new();
    BufReader::new(strace.stderr.as_mut().unwrap()).read_line(&mut told).unwrap();
    assert!(told.contains("attached"), "{told}");
    let mut tracer = hyperspector_window::syscalls::Tracer::start(1 << 26).unwrap();
    tracer.set(&everything());
    tracer.set_scope(&group.scope());
    let mut records = Vec::new();
    let reader = tracer.reader(|bytes| records.push(bytes.to_vec())).unwrap();
    shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let deadline = Instant::now() + PATIENCE * slowdown();
    while shell.try_wait().unwrap().is_none() && Instant::now() < deadline {
        reader.read(Duration::from_millis(20)).unwrap();
    }
    reader.read(Duration::from_millis(50)).unwrap();
    drop(reader);
    assert_eq!(ended(&mut shell).code(), Some(3));
    assert!(ended(&mut strace).success());
    drain.join().unwrap().unwrap();
    let listener = serve::listen(place.path());
    let args = ["-f", "-c", "-p", &pid, "-o", out.path().to_str().unwrap()];
    let mut child = ours(place.path(), &args);
    serve(&listener, &records);
    interrupt(&child);
    assert!(ended(&mut child).success());
    let read = |file: &tempfile::NamedTempFile| fs::read_to_string(file.path()).unwrap();
    let (theirs, mine) = (read(&theirs), read(&out));
    println!("{theirs}\n{mine}");
    let (theirs, mine) = (counts(&theirs), counts(&mine));
    assert!(theirs.len() > 20);
    for (name, count) in &theirs {
        assert_eq!(mine.get(name), Some(count), "{name}");
    }
    assert_eq!(theirs.len(), mine.len());
}

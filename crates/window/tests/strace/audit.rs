//! Our audit records, as ausearch(8) and aureport(8) read them.

use std::process::{Command, Stdio};
use std::time::Duration;

use hyperspector_syscalls::decode::{Decoder, Event};
use hyperspector_syscalls::text::audit::Audit;

use crate::group::{Group, traced};

const SCRIPT: &str = "cat /etc/hostname; cat /nonexistent; mkdir 'a b'; rmdir 'a b'; \
     /usr/bin/python3 -c 'import socket\ns = socket.socket()\ns.connect_ex((\"127.0.0.1\", 1))'";

/// Our records of a script, how many calls they are of, and how many of those failed.
fn recorded() -> (String, usize, usize) {
    let group = Group::new("audit");
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    let script = format!("cd {}; {}; {SCRIPT}", place.path().display(), group.enter());
    command.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::null());
    let (records, _) = traced(&group, command, Duration::from_secs(30));
    let (mut decoder, mut text) = (Decoder::new(), String::new());
    let mut audit = Audit { epoch: 1_700_000_000_000_000_000, serial: 100 };
    let (mut calls, mut failed) = (0, 0);
    for record in &records {
        if let Some(event) = decoder.feed(record).unwrap() {
            audit.write(&mut text, &event);
            if let Event::Call(call) = event
                && !call.is_birth()
            {
                calls += 1;
                failed += usize::from(call.error().is_some());
            }
        }
    }
    (text, calls, failed)
}

fn run(program: &str, args: &[&str], file: &str) -> String {
    let mut command = Command::new(program);
    command.args(args).args(["-if", file]).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{program} (auditd): {error}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn ausearch_and_aureport_take_our_records() {
    let (text, calls, failed) = recorded();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    let file = file.path().to_str().unwrap();
    let all = run("ausearch", &["-i", "-m", "SYSCALL"], file);
    assert_eq!(all.matches("type=SYSCALL").count(), calls);
    let files = run("ausearch", &["-i", "-f", "/nonexistent"], file);
    assert!(files.contains("syscall=openat success=no exit=ENOENT"), "{files}");
    assert!(files.contains("name=/nonexistent") && files.contains("proctitle=cat /nonexistent"));
    let opened = run("ausearch", &["-i", "-f", "/etc/hostname"], file);
    assert!(opened.contains("ouid=root ogid=root rdev=00:00 nametype=NORMAL"), "{opened}");
    let connects = run("ausearch", &["-i", "-sc", "connect"], file);
    assert!(connects.contains("laddr=127.0.0.1 lport=1"), "{connects}");
    let executions = run("ausearch", &["-i", "-sc", "execve"], file);
    assert!(executions.contains("argc=2 a0=mkdir a1=a b"), "{executions}");
    let summary = run("aureport", &["--syscall", "--failed"], file);
    let rows =
        summary.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    assert_eq!(rows.count(), failed, "{summary}");
    let files = run("aureport", &["--file"], file);
    assert!(files.contains("/etc/hostname"), "{files}");
}

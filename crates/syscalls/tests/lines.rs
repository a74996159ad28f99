//! Records made by hand, and what they read like.

mod made;

use hyperspector_syscalls::decode::{Decoder, Event};
use hyperspector_syscalls::summary::Summary;
use hyperspector_syscalls::text::{audit::Audit, json, strace};
use made::{SECOND, call, item, opened, record};

fn events(records: &[Vec<u8>]) -> Vec<Event> {
    let mut decoder = Decoder::new();
    records.iter().filter_map(|record| decoder.feed(record).unwrap()).collect()
}

fn line(event: &Event) -> String {
    let mut text = String::new();
    strace::write(&mut text, event, &strace::Style::default());
    text
}

#[test]
fn strace_s_lines() {
    let events = events(&opened());
    assert_eq!(
        line(&events[0]),
        "78    00:00:05.000000 openat(AT_FDCWD</srv>, \"a\\nb\", O_RDONLY|O_CLOEXEC) = 3</srv/a\\nb> <0.001234>\n"
    );
    let exit =
        [call("exit_group", 2, 0, &[3], &[]), record(5, 0, 6 * SECOND, &[0, 3, 0, 0, 1, 0, 0, 0])];
    let lines: String = self::events(&exit).iter().map(line).collect();
    assert_eq!(
        lines,
        "78    00:00:05.000000 exit_group(3)     = ?\n78    00:00:06.000000 +++ exited with 3 +++\n"
    );
}

#[test]
fn json_s_lines() {
    let mut text = String::new();
    json::write(&mut text, &events(&opened())[0], 0);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["call"], "openat");
    assert_eq!(value["args"]["pathname"], "a\nb");
    assert_eq!(value["args"]["dirfd"]["path"], "/srv");
    assert_eq!((&value["result"], &value["uid"]), (&3.into(), &1000.into()));
    assert_eq!(value["files"][0]["path"], "/srv/a\nb");
}

#[test]
fn audit_s_records() {
    let mut text = String::new();
    Audit { epoch: 0, serial: 9 }.write(&mut text, &events(&opened())[0]);
    let arch =
        if cfg!(target_arch = "aarch64") { "c00000b7 syscall=56" } else { "c000003e syscall=257" };
    assert_eq!(
        text,
        format!(
            "type=SYSCALL msg=audit(5.000:9): arch={arch} success=yes exit=3 a0=ffffff9c a1=1000 \
             a2=80000 a3=0 items=2 ppid=70 pid=77 auid=4294967295 uid=1000 gid=100 euid=0 suid=0 \
             fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm=6D792070726F67 exe=(null) \
             key=(null)\n\
             type=CWD msg=audit(5.000:9): cwd=\"/srv\"\n\
             type=PATH msg=audit(5.000:9): item=0 name=610A62 inode=99 dev=08:01 mode=0100644 \
             ouid=33 ogid=34 rdev=00:00 nametype=NORMAL\n\
             type=PATH msg=audit(5.000:9): item=1 name=2F7372762F610A62 inode=99 dev=08:01 \
             mode=0100644 ouid=33 ogid=34 rdev=00:00 nametype=NORMAL\n\
             type=PROCTITLE msg=audit(5.000:9): proctitle=6D792070726F67\n\
             type=EOE msg=audit(5.000:9): \n"
        )
    );
}

#[test]
fn the_summary_is_strace_s_table() {
    let mut summary = Summary::default();
    for event in events(&[call("close", 0, -9, &[99], &[]), call("getpid", 0, 77, &[], &[])]) {
        if let Event::Call(call) = event {
            summary.add(&call);
        }
    }
    let mut text = String::new();
    summary.write(&mut text);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "% time     seconds  usecs/call     calls    errors syscall");
    assert_eq!(lines[2], " 50.00    0.001234        1234         1         1 close");
    assert_eq!(lines[3], " 50.00    0.001234        1234         1           getpid");
    assert_eq!(lines[5], "100.00    0.002469        1234         2         1 total");
}

#[test]
fn what_entries_have_told_is_joined_once() {
    let name = item(1, 0, 0, b"/etc/passwd");
    let args = [0xffff_ff9c, 4096, 0];
    let mut entry = call("openat", 0, 0, &args, &[name]);
    entry[4] = 2;
    let joined = call("openat", 16, -2, &args, &[]);
    let lines: Vec<_> = events(&[entry, joined.clone(), joined]).iter().map(line).collect();
    assert!(lines[0].contains("openat(AT_FDCWD, \"/etc/passwd\", O_RDONLY) = -1 ENOENT ("));
    assert!(lines[1].contains("openat(AT_FDCWD, 0x1000, O_RDONLY) = -1 ENOENT ("));
}

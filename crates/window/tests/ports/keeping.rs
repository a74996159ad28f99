//! How the guard is kept, changed, counted and removed.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use hyperspector_window::ports::{self, Config, Protocol, Refused, What};
use libc as l;

use super::lab::{Guarded, Lab, ranges, registered};
use super::server::{Outside, at, datagram, errno, stream};

pub fn counted() {
    let lab = Lab::new();
    let config = Config { ports: ranges("tcp/8000"), deny: ranges("udp/7001") };
    let guarded = lab.guarded(&config);
    lab.run(&guarded.cgroup, |_| {
        for _ in 0..3 {
            let _ = stream(true).bind(&at("::", 8001));
        }
        let _ = datagram(false).bind(&at("0.0.0.0", 8000));
        let _ = stream(false).bind(&at("0.0.0.0", 8000));
        // By address, and by where it goes.
        for address in ["127.0.0.1", "10.9.0.1"] {
            let _ = datagram(false).send_to(b"x", &at(address, 7001));
        }
    });
    let counts = guarded.counts();
    assert_eq!((counts.binds, counts.connects, counts.listens), (4, 2, 0));
    let refused = |what, protocol, port, count| Refused { what, protocol, port, count };
    let expected = [
        refused(What::Bind, Protocol::Tcp, 8001, 3),
        refused(What::Connect, Protocol::Udp, 7001, 2),
        refused(What::Bind, Protocol::Udp, 8000, 1),
    ];
    assert_eq!(counts.ports, expected);
    // Trying every port takes no more memory, and is all counted.
    lab.run(&guarded.cgroup, |_| {
        for port in 10_000..20_000 {
            let _ = stream(false).bind(&at("0.0.0.0", port));
        }
    });
    let counts = guarded.counts();
    assert_eq!((counts.binds, counts.ports.len()), (10_004, 32));
}

/// Binds a registered and another port again and again, while `act` is done so many times.
fn hammer(lab: &Lab, guarded: &Guarded, times: usize, act: impl FnMut()) {
    lab.run_beside(&guarded.cgroup, act, |outside: &Outside| {
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    assert_eq!(errno(stream(true).bind(&at("::", 8001))), l::EACCES);
                    assert_eq!(errno(stream(true).bind(&at("::", 8000))), 0);
                }
            });
            (0..times).for_each(|_| outside.act());
            ended.store(true, Ordering::Relaxed);
        });
    });
}

pub fn changed() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/8000"));
    let turn = Cell::new(0);
    hammer(&lab, &guarded, 40, || {
        turn.set(turn.get() + 1);
        let mut config = registered(["tcp/8000 tcp/80", "tcp/7000-8000"][turn.get() % 2]);
        config.deny = ranges(["tcp/7001", ""][turn.get() / 2 % 2]);
        guarded.attach(&config).unwrap();
    });
    let bind = |port| errno(stream(false).bind(&at("127.0.0.1", port)));
    let connect = |port| errno(stream(false).connect(&at("127.0.0.1", port)));
    lab.run(&guarded.cgroup, |_| {
        assert_eq!((bind(80), bind(7000)), (0, l::EACCES));
        assert_eq!(connect(7001), l::EACCES);
    });
    guarded.attach(&registered("tcp/7000")).unwrap();
    lab.run(&guarded.cgroup, |_| {
        assert_eq!((bind(80), bind(7000)), (l::EACCES, 0));
        assert_eq!(connect(7001), l::ECONNREFUSED);
    });
}

pub fn replaced() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/8000"));
    hammer(&lab, &guarded, 50, || guarded.attach(&registered("tcp/8000")).unwrap());
    assert!(guarded.counts().binds > 50);
    let names = || {
        let entries = fs::read_dir(&guarded.pins).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    // As after an agent that was killed in the middle.
    fs::rename(guarded.pins.join("config"), guarded.pins.join("config_new")).unwrap();
    guarded.attach(&registered("tcp/8000")).unwrap();
    assert_eq!(names(), before);
    lab.run(&guarded.cgroup, |_| {
        assert_eq!(errno(stream(true).bind(&at("::", 8001))), l::EACCES);
    });
}

pub fn removed() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered("tcp/8000"));
    let bind = |expected| {
        lab.run(&guarded.cgroup, |_| {
            assert_eq!(errno(stream(false).bind(&at("0.0.0.0", 8001))), expected);
        });
    };
    bind(l::EACCES);
    ports::remove(&guarded.pins).unwrap();
    ports::remove(&guarded.pins).unwrap();
    assert!(!guarded.pins.exists());
    // The kernel lets go of the programs a moment later.
    std::thread::sleep(std::time::Duration::from_millis(100));
    bind(0);
    guarded.attach(&registered("tcp/8000")).unwrap();
    bind(l::EACCES);
}

pub fn errors() {
    let lab = Lab::new();
    let guarded = lab.guarded(&registered(""));
    ports::probe().unwrap();
    let (pins, folder) = (guarded.pins.with_file_name("none"), tempfile::tempdir().unwrap());
    let missing = ports::counts(&pins).unwrap_err().to_string();
    assert!(missing.starts_with("read the counts of the port guard: "), "{missing}");
    let other = File::open(folder.path()).unwrap();
    let told = ports::attach(other.as_fd(), &registered(""), &pins).unwrap_err().to_string();
    assert!(told.contains("to the server space's cgroup (cgroup v2"), "{told}");
    ports::remove(&pins).unwrap();
    let nowhere = folder.path().join("pins");
    let directory = File::open(&guarded.cgroup.0).unwrap();
    let told = ports::attach(directory.as_fd(), &registered(""), &nowhere).unwrap_err();
    assert!(told.to_string().starts_with("change the pin config of the port guard: "), "{told}");
}

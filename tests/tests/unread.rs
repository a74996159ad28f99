//! What a server keeps readers of facts from by file systems that never answer.

use std::time::Duration;

use hyperspector_tests::{ControlGroup, Fleet, Hung, Running, wait_until, wait_within, watched};

/// Serves a file system with one program, runs it four times, and takes the file system off its place.
/// Whoever asks about that from then on waits, and cannot even be killed.
const SERVED: &str = r#"
import ctypes, os, struct, sys, threading, time
place, program = sys.argv[1], open("/bin/busybox", "rb").read()
libc = ctypes.CDLL(None, use_errno=True)
fuse = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % fuse
assert libc.mount(b"served", place.encode(), b"fuse", 0, options) == 0
def attributes(node):
    mode, size = (0o40755, 0) if node == 1 else (0o100755, len(program))
    return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
def answer(kind, node, body):
    if kind == 26: return 0, struct.pack("<4I2H2I2HI28x", 7, 31, 1 << 17, 0, 8, 8, 1 << 17, 1, 32, 0, 0)
    if kind == 1: return 0, struct.pack("<4Q2I", 2, 1, 999, 999, 0, 0) + attributes(2)
    if kind == 3: return 0, struct.pack("<Q2I", 999, 0, 0) + attributes(node)
    if kind == 14: return 0, struct.pack("<Q2I", 0, 0, 0)
    if kind == 15:
        _, at, size = struct.unpack_from("<2QI", body)
        return 0, program[at : at + size]
    if kind in (18, 25): return 0, b""
    return -38, b""
def serve():
    while True:
        request = os.read(fuse, 1 << 18)
        _, kind, unique, node = struct.unpack_from("<2I2Q", request)
        if kind in (2, 17, 36, 42): continue
        error, body = answer(kind, node, request[40:])
        os.write(fuse, struct.pack("<IiQ", 16 + len(body), error, unique) + body)
threading.Thread(target=serve, daemon=True).start()
while not os.path.exists(sys.argv[2]): time.sleep(0.01)
for _ in range(4):
    child = os.fork()
    if child == 0: os.execve(place + "/sleep", ["sleep", "1000"], {})
    while not os.readlink(f"/proc/{child}/exe").startswith(place): time.sleep(0.01)
assert libc.umount2(place.encode(), 2) == 0
print("served", flush=True)
threading.Event().wait()
"#;

#[test]
fn a_server_that_holds_readers_up_for_good_costs_itself_only_what_they_ask_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let place = fleet.dir().join("served");
    std::fs::create_dir(&place).unwrap();
    let group = ControlGroup::make(&watched::unique("group"));
    let mut python = std::process::Command::new("unshare");
    python.args(["--mount", "--propagation", "private", "python3", "-c", SERVED]);
    let go = fleet.dir().join("go");
    let server = Running::start(python.args([&place, &go]));
    group.add(server.pid());
    let adopt = format!("{{ cgroup = {:?} }}", group.name());
    watched::up(host, &adopt, "watch.processes = [\"shop\"]");
    std::fs::write(&go, "").unwrap();
    wait_until("it runs", || server.output().contains("served"));
    let facts = || host.shell("alpha/fim", "cat /.serverproc/shop.json || true");
    // Four readers are held up one after the other.
    wait_within(Duration::from_secs(60), "what the kernel itself knows is told", || {
        facts().contains("holds up too many").then_some(())
    });
    let mut later = std::process::Command::new("sleep").arg("4242").spawn().unwrap();
    group.add(later.id().cast_signed());
    wait_until("a new process is told of", || {
        facts().contains(&format!("\"host\":{},", later.id()))
    });
    drop(server);
    wait_until("all is read again", || facts().contains("4242"));
    later.kill().unwrap();
    later.wait().unwrap();
}

#[test]
fn names_that_cannot_be_read_cost_a_server_s_facts_nothing_else() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let root = fleet.root();
    let group = ControlGroup::make(&watched::unique("group"));
    let mut chroot = std::process::Command::new("chroot");
    let server = Running::start(chroot.arg(root.path()).args(["sleep", "1000"]));
    group.add(server.pid());
    let hung = Hung::mount(&root.path().join("etc"));
    let adopt = format!("{{ cgroup = {:?} }}", group.name());
    watched::up(host, &adopt, "watch.processes = [\"shop\"]");
    let facts = || host.shell("alpha/fim", "cat /.serverproc/shop.json || true");
    wait_until("it is told of, without names", || {
        facts().contains("names of users") && facts().contains("1000")
    });
    drop(hung);
    let file = host.run_dir().join("facts/shop/out/processes.json");
    wait_until("status says when nothing was told for long", || {
        let mut touch = std::process::Command::new("touch");
        assert!(touch.args(["-d", "-5 min"]).arg(&file).status().unwrap().success());
        host.hyperspector(&["status"]).all().contains("s old")
    });
}

//! Server spaces: real servers on the host's network, and what is expected of whoever runs them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

use hyperspector_tests::{
    Fleet, Output, TestHost, has_ended, kill, namespace_of, run, status_field, wait_until,
};

const SLEEP: &str = "command = [\"sleep\", \"1000\"]\n";
const NGINX: &str = "command = [\"nginx\", \"-g\", \"daemon off;\"]\nports = [\"tcp/80\"]\n";
/// www-data in Debian.
const WWW_DATA: u32 = 33;

/// What a program prints that runs in the host's network.
#[track_caller]
fn on(host: &TestHost, program: &str, arguments: &[&str]) -> Output {
    run(host.net.command(program).args(arguments), b"", Duration::from_secs(20))
}

#[track_caller]
fn get(host: &TestHost, url: &str) -> String {
    on(host, "curl", &["-sS", "--max-time", "10", url]).text()
}

/// A directory for mounts, on a file system that can be idmapped.
fn volume(fleet: &Fleet, name: &str) -> std::path::PathBuf {
    let path = fleet.dir().join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn nginx_serves_on_a_low_port_and_its_workers_are_www_data() {
    let fleet = Fleet::new(&["web1", "web2"]);
    let (host, other) = (fleet.host("web1"), fleet.host("web2"));
    let site = volume(&fleet, "site");
    fs::write(site.join("index.html"), "hello from the shop\n").unwrap();
    host.up_shop(&format!("{NGINX}mount = [{{ from = {site:?}, to = \"/var/www/html\" }}]\n"));
    let url = format!("http://{}/index.html", host.address());
    assert_eq!(get(other, &url), "hello from the shop");
    assert_eq!(get(host, "http://127.0.0.1/index.html"), "hello from the shop");

    // Nobody of it has a capability that counts on the host, and its users are nobody there.
    let space = host.server_space("shop");
    let (master, base) = (space.pid.unwrap(), space.first_id.unwrap());
    assert_eq!(status_field(master, "Uid"), [base; 4].map(|id| id.to_string()).join("\t"));
    let workers = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
    let worker: i32 = workers.split_whitespace().next().unwrap().parse().unwrap();
    let www_data = (base + WWW_DATA).to_string();
    assert!(status_field(worker, "Uid").starts_with(&www_data), "{www_data}");
    assert_eq!(status_field(worker, "CapEff"), "0000000000000000");
    assert_ne!(namespace_of(&master.to_string(), "user"), namespace_of("self", "user"));

    // It reloads as nginx does, and its log is where nginx writes it.
    host.exec("shop", &["nginx", "-s", "reload"]).expect(0);
    wait_until("other workers serve", || {
        let now = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        !now.is_empty() && now != workers && get(host, &url) == "hello from the shop"
    });
    assert!(host.shell("shop", "cat /var/log/nginx/access.log").contains("GET /index.html"));
}

#[test]
fn every_namespace_is_its_own_but_the_network() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_shop(SLEEP);
    let pid = host.server_pid("shop").to_string();
    for name in ["mnt", "pid", "ipc", "uts", "cgroup", "user"] {
        assert_ne!(namespace_of(&pid, name), namespace_of("self", name), "{name}");
    }
    let of_host = host.net.within(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
    assert_eq!(namespace_of(&pid, "net"), of_host.display().to_string());
    assert_eq!(host.shell("shop", "hostname"), "shop.web1");
    assert_eq!(status_field(pid.parse().unwrap(), "NoNewPrivs"), "1");
    assert_eq!(status_field(pid.parse().unwrap(), "Seccomp"), "2");
}

#[test]
fn directories_of_the_host_are_read_or_written_with_the_owners_that_they_have() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let (config, data) = (volume(&fleet, "config"), volume(&fleet, "data"));
    fs::write(config.join("app.conf"), "a = 1\n").unwrap();
    fs::create_dir(data.join("www")).unwrap();
    chown(data.join("www"), Some(WWW_DATA), Some(WWW_DATA)).unwrap();
    host.up_shop(&format!(
        "{SLEEP}hide = [\"/etc\"]\nmount = [\n\
         {{ from = {config:?}, to = \"/etc/app\" }},\n\
         {{ from = {data:?}, to = \"/srv/data\", mode = \"rw\" }},\n\
         {{ from = \"/etc/passwd\", to = \"/etc/passwd\" }},\n]\n"
    ));
    // Read-only is read-only, and what is mounted below something hidden shows alone.
    assert_eq!(host.shell("shop", "cat /etc/app/app.conf"), "a = 1");
    let refused = host.exec("shop", &["sh", "-c", "echo b > /etc/app/app.conf"]);
    assert!(refused.stderr.contains("Read-only file system"), "{refused:?}");
    let shown = host.shell("shop", "ls /etc");
    assert_eq!(shown, "app\nhostname\nhosts\npasswd\nresolv.conf");
    // Owners are right in both directions.
    assert_eq!(host.shell("shop", "stat -c %u /srv/data/www"), WWW_DATA.to_string());
    host.shell(
        "shop",
        "echo root > /srv/data/of-root; echo x > /srv/data/x; chown 33:33 /srv/data/x",
    );
    let owner = |name: &str| fs::metadata(data.join(name)).unwrap().uid();
    assert_eq!((owner("of-root"), owner("x")), (0, WWW_DATA));
    let as_user = ["exec", "-u", "www-data", "shop", "--", "sh", "-c"];
    host.hyperspector(&[&as_user[..], &["echo w > /srv/data/www/w"]].concat()).expect(0);
    assert_eq!(owner("www/w"), WWW_DATA);
    host.hyperspector(&[&as_user[..], &["echo w > /srv/data/of-root"]].concat()).expect(2);
    // What the host writes is there at once.
    fs::write(data.join("new"), "new\n").unwrap();
    assert_eq!(host.shell("shop", "cat /srv/data/new"), "new");
}

#[test]
fn what_the_host_has_mounted_below_a_directory_comes_with_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let data = volume(&fleet, "data");
    let disk = volume(&fleet, "data/disk");
    let mount = ["-t", "tmpfs", "-o", "mode=0755", "disk"];
    on(host, "mount", &[&mount[..], &[disk.to_str().unwrap()]].concat()).expect(0);
    fs::write(disk.join("file"), "on the disk\n").unwrap();
    host.up_shop(&format!(
        "{SLEEP}mount = [{{ from = {data:?}, to = \"/srv/data\", mode = \"rw\" }}]\n"
    ));
    assert_eq!(host.shell("shop", "cat /srv/data/disk/file"), "on the disk");
    host.shell("shop", "echo more >> /srv/data/disk/file");
    assert_eq!(fs::read_to_string(disk.join("file")).unwrap(), "on the disk\nmore\n");
}

#[test]
fn a_file_system_whose_owners_cannot_be_shifted_is_an_error_that_says_so() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let data = volume(&fleet, "overlay");
    let layers = ["lower", "upper", "work"].map(|name| volume(&fleet, name).display().to_string());
    let options = format!("lowerdir={},upperdir={},workdir={}", layers[0], layers[1], layers[2]);
    let mount = ["-t", "overlay", "-o", &options, "overlay", data.to_str().unwrap()];
    on(host, "mount", &mount).expect(0);
    let spec = host.shop(&format!(
        "{SLEEP}mount = [{{ from = {data:?}, to = \"/srv/data\", mode = \"rw\" }}]\n"
    ));
    let failed = host.try_up(&spec).expect(3);
    assert!(failed.stderr.contains("cannot shift owners on overlay"), "{failed:?}");
    assert_eq!(host.server_space("shop").state, "failed");
}

#[test]
fn no_set_id_file_is_left_in_a_directory_of_the_host() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let data = volume(&fleet, "data");
    host.up_shop(&format!(
        "{SLEEP}mount = [{{ from = {data:?}, to = \"/srv/data\", mode = \"rw\" }}]\n"
    ));
    host.shell("shop", "cp /bin/true /srv/data/true");
    for mode in ["4755", "2755", "u+s", "g+s"] {
        let refused = host.exec("shop", &["chmod", mode, "/srv/data/true"]);
        assert_ne!(refused.code, Some(0), "chmod {mode}");
    }
    // perl's sysopen and mknod pass modes as they are.
    for made in [
        "use Fcntl; umask 0; sysopen(F, '/srv/data/made', O_CREAT|O_WRONLY, 04755) or die $!",
        "syscall(133, '/srv/data/made', 0104755, 0) == 0 or die $!",
        // openat2(2) with a mode, which would show what is in memory.
        "syscall(437, -100, '/srv/data/made', pack('QQQ', 0101, 04755, 0), 24) >= 0 or die $!",
    ] {
        let refused = host.exec("shop", &["perl", "-e", made]);
        assert_ne!(refused.code, Some(0), "{made}");
    }
    for entry in fs::read_dir(&data).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o6000, 0, "{:?} is {mode:o}", entry.path());
    }
}

#[test]
fn user_directory_environment_and_names_are_as_the_spec_and_the_host_say() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_shop(
        "command = [\"sh\", \"-c\", \"id -un; id -gn; pwd; echo $COLOUR $HOME; exec sleep 1000\"]\n\
         user = \"www-data\"\ndirectory = \"/var/lib\"\nenvironment = { COLOUR = \"green\" }\n",
    );
    host.wait_log("shop", "green /var/www");
    let log = host.logs("shop");
    let texts: Vec<&str> =
        log.lines().filter_map(|line| line.rsplit_once(' ')).map(|l| l.1).collect();
    assert_eq!(texts, ["www-data", "www-data", "/var/lib", "/var/www"], "{log}");
    // Names are resolved as on the host, and its own name leads to itself.
    assert_eq!(
        host.shell("shop", "getent hosts shop.web1").split_whitespace().next(),
        Some("127.0.1.1")
    );
    let resolver = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(host.shell("shop", "cat /etc/resolv.conf"), resolver.trim_end());
    for line in fs::read_to_string("/etc/hosts").unwrap().lines().filter(|l| !l.is_empty()) {
        assert!(host.shell("shop", "cat /etc/hosts").contains(line.trim_end()), "{line}");
    }
    // What a program expects of a machine.
    host.shell("shop", "test -w /dev/shm && test -w /run/lock");
    host.shell("shop", "touch /tmp/x /run/x /dev/shm/x && echo x > /dev/null");
    assert_eq!(host.shell("shop", "ls /run"), "lock\nx");
}

#[test]
fn a_server_that_fails_is_started_again_later_and_later() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.shop("command = [\"sh\", \"-c\", \"echo once more; exit 7\"]\n");
    let failed = host.try_up(&spec).expect(3);
    assert!(failed.stderr.contains("exit status 7"), "{failed:?}");
    wait_until("it was started again", || host.server_space("shop").restarts >= 2);
    let space = host.wait_server("shop", "failed");
    assert!(space.reason.unwrap().contains("exit status 7"));
    assert!(space.last_lines.iter().any(|line| line.contains("once more")));
    host.hyperspector(&["status"]).expect(3);
    // The pauses double: 0.2, 0.4, 0.8 and 1.6 s make 3 s.
    let start = Instant::now();
    wait_until("it was started four times more", || host.server_space("shop").restarts >= 6);
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn one_that_is_to_stay_ended_does_and_one_has_its_time_to_end() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_shop("command = [\"true\"]\nrestart = \"never\"\n");
    assert_eq!(host.wait_server("shop", "stopped").restarts, 0);
    let slow = "trap 'sleep 2; echo gone; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    host.up_shop(&format!("command = [\"sh\", \"-c\", {slow:?}]\nstop-grace = \"10s\"\n"));
    host.wait_log("shop", "ready");
    let start = Instant::now();
    host.down();
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    let log = fs::read_to_string(host.state_dir().join("servers/shop/log.0")).unwrap();
    assert!(log.contains("gone"), "{log}");
}

#[test]
fn its_limits_hold() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_shop(&format!("{SLEEP}limits = {{ memory = \"64MiB\", pids = 20 }}\n"));
    let line = "for i in $(seq 40); do sleep 100 & done; wait";
    let forked = host.exec("shop", &["sh", "-c", line]);
    assert!(forked.stderr.to_lowercase().contains("fork"), "{forked:?}");
    let big = host.exec("shop", &["perl", "-e", "my $x = 'x' x (200 << 20); print length $x"]);
    assert_ne!(big.code, Some(0), "{big:?}");
}

#[test]
fn exec_runs_beside_it_with_and_without_a_terminal() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_shop(SLEEP);
    let output = host.exec("shop", &["sh", "-c", "cat; echo err >&2; exit 5"]);
    assert_eq!((output.code, output.stderr.trim()), (Some(5), "err"));
    assert_eq!(host.exec_with("shop", &["cat"], b"through\n").text(), "through");
    let tty = host.hyperspector(&["exec", "-t", "shop", "--", "tty"]).text();
    assert!(tty.starts_with("/dev/pts/"), "{tty}");
    let unknown = host.exec("shoes", &["true"]).expect(1);
    assert!(unknown.stderr.contains("server space shoes is not here; here: shop"), "{unknown:?}");
    host.logs("shop");
}

#[test]
fn it_goes_on_without_the_agent_and_the_next_one_knows_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let spec = host.shop(NGINX);
    host.up(&spec);
    let pid = host.server_pid("shop");
    kill(host.agent());
    assert!(get(host, "http://127.0.0.1/").contains("nginx"));
    // The port guard holds without an agent: it is pinned.
    let up = host.up(&spec);
    assert!(up.stderr.contains("shop unchanged"), "{up:?}");
    assert_eq!(host.server_pid("shop"), pid);
    let bind = "import socket; socket.socket().bind(('0.0.0.0', 81))";
    host.exec("shop", &["/usr/bin/python3", "-c", bind]).expect(1);
    // Without the record of the agent that died, it is still taken down.
    kill(host.agent());
    host.down();
    wait_until("it has ended", || has_ended(pid));
    assert!(!host.run_dir().join("sv").exists());
}

#[test]
fn one_that_dies_with_all_it_has_is_made_again() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_shop(NGINX);
    let init = host.server_space("shop").init_pid.unwrap();
    kill(init);
    wait_until("it serves again", || {
        on(host, "curl", &["-sS", "http://127.0.0.1/"]).code == Some(0)
    });
    assert_ne!(host.server_space("shop").init_pid, Some(init));
    assert_eq!(host.server_space("shop").restarts, 1);
}

#[test]
fn limits_ports_and_denials_change_without_a_restart_and_the_rest_with_one() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_shop(&format!("{SLEEP}ports = [\"tcp/8080\"]\n"));
    let pid = host.server_pid("shop");
    let bind = |port: &str| {
        let line = format!("import socket; socket.socket().bind(('0.0.0.0', {port}))");
        host.exec("shop", &["/usr/bin/python3", "-c", &line]).code == Some(0)
    };
    assert!(bind("8080") && !bind("81"));
    let up = host.up_shop(&format!("{SLEEP}ports = [\"tcp/81\"]\ndeny = [\"tcp/5432\"]\n"));
    assert!(up.stderr.contains("shop changed"), "{up:?}");
    assert!(!bind("8080") && bind("81"));
    let up = host.up_shop(&format!(
        "{SLEEP}ports = [\"tcp/81\"]\ndeny = [\"tcp/5432\"]\nlimits = {{ pids = 100 }}\n"
    ));
    assert!(up.stderr.contains("shop limits changed"), "{up:?}");
    assert_eq!(host.server_pid("shop"), pid);
    assert_eq!(host.server_space("shop").refused["binds"], 2);
    let up = host.up_shop(&format!("{SLEEP}ports = [\"tcp/81\"]\nenvironment = {{ A = \"b\" }}\n"));
    assert!(up.stderr.contains("shop restarted"), "{up:?}");
    assert_ne!(host.server_pid("shop"), pid);
    let name = host.name();
    let nothing = host.spec(&format!("[host.{name}]\n"));
    let up = host.up(&nothing);
    assert!(up.stderr.contains("shop removed"), "{up:?}");
    assert!(host.status().servers.is_empty());
}

#[test]
fn a_clean_restart_leaves_nothing_but_what_is_kept() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    host.up_shop(
        "command = [\"sh\", \"-c\", \"ls /srv /var/lib/kept; echo listed; touch /srv/gone /var/lib/kept/stays; \
         exec sleep 1000\"]\nrestart = \"clean\"\nkeep = [\"/var/lib/kept\"]\n",
    );
    host.wait_log("shop", "listed");
    wait_until("it has written", || {
        host.exec("shop", &["test", "-e", "/var/lib/kept/stays"]).code == Some(0)
    });
    let pid = host.server_pid("shop");
    kill(pid);
    wait_until("it runs again", || host.logs("shop").matches("listed").count() >= 2);
    let log = host.logs("shop");
    assert!(log.contains("stays") && !log.contains("gone"), "{log}");
}

#[test]
fn redis_keeps_its_data_in_a_directory_of_the_host() {
    let fleet = Fleet::new(&["web1", "web2"]);
    let (host, other) = (fleet.host("web1"), fleet.host("web2"));
    let data = volume(&fleet, "redis");
    let spec = format!(
        "command = [\"redis-server\", \"--port\", \"6379\", \"--protected-mode\", \"no\", \"--dir\", \
         \"/data\", \"--appendonly\", \"yes\"]\nports = [\"tcp/6379\"]\nuser = \"redis\"\n\
         mount = [{{ from = {data:?}, to = \"/data\", mode = \"rw\" }}]\n"
    );
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let entry = passwd.lines().find(|line| line.starts_with("redis:")).expect("redis is installed");
    let uid: u32 = entry.split(':').nth(2).unwrap().parse().unwrap();
    chown(&data, Some(uid), Some(uid)).unwrap();
    host.up_shop(&spec);
    let ask = |from: &TestHost, words: &[&str]| {
        on(from, "redis-cli", &[&["-h", host.address()], words].concat()).text()
    };
    assert_eq!(ask(other, &["set", "colour", "green"]), "OK");
    assert_eq!(fs::metadata(data.join("appendonlydir")).unwrap().uid(), uid);
    host.down();
    host.up_shop(&spec);
    assert_eq!(ask(other, &["get", "colour"]), "green");
}

#[test]
fn an_ssh_server_lets_its_users_in_with_a_terminal() {
    let fleet = Fleet::new(&["web1", "web2"]);
    let (host, other) = (fleet.host("web1"), fleet.host("web2"));
    let keys = volume(&fleet, "keys");
    let key = keys.join("key");
    on(host, "ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()])
        .expect(0);
    // The host's own is hidden from it.
    fs::write(keys.join("shadow"), "root:*:20000:0:99999:7:::\nsshd:*:20000::::::\n").unwrap();
    let line = "mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f /run/key && exec \
                /usr/sbin/sshd -D -e -p 22 -h /run/key -o UsePAM=no -o AuthorizedKeysFile=/keys/key.pub \
                -o StrictModes=no";
    host.up_shop(&format!(
        "command = [\"sh\", \"-c\", {line:?}]\nports = [\"tcp/22\"]\n\
         mount = [{{ from = {keys:?}, to = \"/keys\" }}, {{ from = {:?}, to = \"/etc/shadow\" }}]\n",
        keys.join("shadow")
    ));
    host.wait_log("shop", "Server listening");
    let login = |more: &[&str]| {
        let target = format!("root@{}", host.address());
        let options = ["-i", key.to_str().unwrap(), "-o", "StrictHostKeyChecking=no", "-o"];
        let words = [&options[..], &["UserKnownHostsFile=/dev/null", &target], more].concat();
        on(other, "ssh", &words)
    };
    assert_eq!(login(&["hostname"]).text(), "shop.web1");
    let tty = login(&["-tt", "tty"]).text();
    assert!(tty.starts_with("/dev/pts/"), "{tty}");
}

#[test]
fn what_a_script_leaves_behind_is_reaped_and_ends_with_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let script = "while :; do (sleep 0.05 & ) ; (setsid sh -c 'echo job' & ) ; sleep 0.02; done";
    host.up_shop(&format!("command = [\"sh\", \"-c\", {script:?}]\n"));
    let init = host.server_space("shop").init_pid.unwrap();
    wait_until("some jobs have run", || host.logs("shop").matches("job").count() > 50);
    let zombies = || {
        let list = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        let pids: Vec<&str> = list.split_whitespace().collect();
        let is_zombie = |pid: &&&str| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        pids.iter().filter(is_zombie).count()
    };
    assert!(zombies() < 10, "{}", zombies());
    let pid = host.server_pid("shop");
    host.down();
    wait_until("all have ended", || has_ended(pid) && has_ended(init));
}

#[test]
fn a_python_server_and_clients_of_others_work_with_any_address_family() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    for which in ["all", "lo"] {
        let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        host.net.within(|| fs::write(path, "0").unwrap());
    }
    host.net.within(|| fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap());
    host.up_shop(
        "command = [\"/usr/bin/python3\", \"-m\", \"http.server\", \"-b\", \"::\", \"8000\"]\n\
         ports = [\"tcp/8000\"]\ndirectory = \"/usr/share/common-licenses\"\n",
    );
    host.wait_server("shop", "running");
    wait_until("it listens", || {
        on(host, "curl", &["-s", "http://127.0.0.1:8000/"]).code == Some(0)
    });
    assert!(get(host, "http://[::1]:8000/GPL-3").contains("GNU"));
    assert!(get(host, "http://127.0.0.1:8000/GPL-3").contains("GNU"));
    // From inside: as a client of itself, and of whatever the network has.
    assert!(host.shell("shop", "curl -sS http://localhost:8000/GPL-3").contains("GNU"));
    host.shell("shop", "ping -c 1 -W 2 127.0.0.1");
    assert!(host.shell("shop", "ip -o address show dev eth0").contains(host.address()));
}

#[test]
fn whoever_watches_it_reads_all_of_it_and_can_be_nobody_of_it() {
    let fleet = Fleet::new(&["web1"]);
    let host = fleet.host("web1");
    let (name, root) = (host.name(), fleet.root());
    let ids = |more: &str| {
        format!(
            "[host.{name}]\n[server.shop]\non = [\"{name}\"]\n{SLEEP}{more}\
             [hyperspector.alpha]\nnetwork = \"10.66.0.0/16\"\n\
             [hyperspector.alpha.portspace.ids]\non = [\"{name}\"]\n{SLEEP}root = {:?}\n\
             watch.files = [\"shop\"]\n",
            root.path()
        )
    };
    host.up(&host.spec(&ids("")));
    let first = host.server_space("shop").first_id.unwrap();
    host.shell("shop", "echo secret > /srv/x; chmod 600 /srv/x; chown 33:33 /srv/x");
    let x = "/.serverfs/shop/srv/x";
    assert_eq!(host.shell("alpha/ids", &format!("cat {x}")), "secret");
    assert_eq!(host.shell("alpha/ids", &format!("stat -c %u {x}")), (first + 33).to_string());
    let user = format!("{first}:{first}");
    let refused = host.hyperspector(&["exec", "-u", &user, "alpha/ids", "--", "id"]);
    assert_ne!(refused.code, Some(0), "{refused:?}");
    // One whose ids are the host's is another: the portspace is made again.
    let up = host.up(&host.spec(&ids("ids = \"host\"\n")));
    assert!(up.stderr.contains("alpha/ids restarted"), "{up:?}");
    assert_eq!(host.server_space("shop").first_id, None);
}

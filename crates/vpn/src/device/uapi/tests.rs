use super::*;
use crate::device::outbox::Endpoint;
use crate::keys::SecretKey;
use proptest::prelude::*;

struct Nowhere;

impl Wire for Nowhere {
    fn send(&self, _: &Endpoint, _: &[u8], _: usize, _: u8) -> io::Result<()> {
        Ok(())
    }
}

const PORT: u16 = 51820;

fn engine() -> Engine {
    Engine::new(SecretKey::generate().unwrap())
}

fn key() -> (PublicKey, String) {
    let key = SecretKey::generate().unwrap().public();
    (key, hex(key.as_bytes()).to_string())
}

fn ask(engine: &Engine, request: &str) -> String {
    answer(request, engine, &Nowhere, PORT).to_string()
}

#[test]
fn peers_are_made_changed_shown_and_removed() {
    let (engine, (a, a_hex), (b, b_hex)) = (engine(), key(), key());
    let psk = "01".repeat(32);
    let request = format!(
        "set=1\npublic_key={a_hex}\nendpoint=[2001:db8::1]:7\nallowed_ip=10.1.0.0/16\n\
         preshared_key={psk}\npersistent_keepalive_interval=25\n\
         public_key={b_hex}\nreplace_allowed_ips=true\nallowed_ip=10.2.0.1/32\n\n"
    );
    assert_eq!(ask(&engine, &request), "errno=0\n\n");
    let shown = ask(&engine, "get=1\n\n");
    for line in [
        &format!("private_key={}\n", *hex(engine.secret().secret().as_bytes())),
        "listen_port=51820\n",
        "endpoint=[2001:db8::1]:7\n",
        "allowed_ip=10.1.0.0/16\n",
        &format!("preshared_key={psk}\n"),
        "persistent_keepalive_interval=25\n",
        "last_handshake_time_sec=0\n",
    ] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    assert!(shown.ends_with("errno=0\n\n"));
    // A network moves from one to the other, and a sign takes it away.
    let moved =
        format!("set=1\npublic_key={b_hex}\nallowed_ip=10.1.0.0/16\nallowed_ip=-10.2.0.1/32\n\n");
    assert_eq!(ask(&engine, &moved), "errno=0\n\n");
    let networks = |key| {
        let wanted = engine.table().wanted();
        wanted.iter().find(|peer| peer.public_key == key).unwrap().allowed.clone()
    };
    assert_eq!((networks(a), networks(b)), (vec![], vec!["10.1.0.0/16".parse().unwrap()]));
    assert_eq!(ask(&engine, &format!("set=1\npublic_key={a_hex}\nremove=true\n\n")), "errno=0\n\n");
    let left = engine.table().wanted();
    assert_eq!(left.iter().map(|peer| peer.public_key).collect::<Vec<_>>(), [b]);
}

#[test]
fn what_is_refused_changes_nothing() {
    let (engine, (a, a_hex)) = (engine(), key());
    ask(&engine, &format!("set=1\npublic_key={a_hex}\nallowed_ip=10.1.0.0/16\n\n"));
    let own = hex(engine.public_key().as_bytes());
    for (lines, errno) in [
        ("replace_peers=true\nnonsense=1", libc::EINVAL),
        ("replace_peers=true\nlisten_port=1", libc::EPERM),
        (&format!("replace_peers=true\nprivate_key={}", "02".repeat(32)), libc::EPERM),
        (&format!("replace_peers=true\npublic_key={}", "00".repeat(32)), libc::EINVAL),
        (&format!("public_key={}", *own), libc::EINVAL),
        (&format!("public_key={a_hex}\nallowed_ip=10.1.0.0/99"), libc::EINVAL),
        (&format!("public_key={a_hex}\nendpoint=somewhere"), libc::EINVAL),
        ("public_key=\u{fc}\u{fc}", libc::EINVAL),
    ] {
        assert_eq!(ask(&engine, &format!("set=1\n{lines}\n\n")), format!("errno=-{errno}\n\n"));
        assert_eq!(engine.table().wanted().len(), 1);
        assert_eq!(engine.table().wanted()[0].public_key, a);
    }
}

#[test]
fn a_peer_that_is_only_to_be_updated_is_not_made() {
    let (engine, (_, a_hex)) = (engine(), key());
    let request =
        format!("set=1\npublic_key={a_hex}\nupdate_only=true\nallowed_ip=10.1.0.0/16\n\n");
    assert_eq!(ask(&engine, &request), "errno=0\n\n");
    assert!(engine.table().wanted().is_empty());
}

proptest! {
    #[test]
    fn anything_is_answered(request in "(get|set)=[01]\n([a-z_]{1,20}=[0-9a-f.:/+-]{0,70}\n){0,6}\n") {
        let engine = engine();
        prop_assert!(ask(&engine, &request).ends_with("\n\n"));
    }
}

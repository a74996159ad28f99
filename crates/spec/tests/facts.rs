//! What a host says about a spec, what is worth a note, and hosts that are not in the file.

use std::path::Path;

use hyperspector_spec::plan::Root;
use hyperspector_spec::{Facts, Spec};

const SPEC: &str = r#"[host.web1]
[host.web2]
[server.site]
on = ["web1"]
adopt = { directory = "/srv/www" }
[hyperspector.alpha]
network = "10.66.0.0/16"
[hyperspector.alpha.portspace.nids]
on = ["web1"]
command = ["suricata"]
ids = "host"
watch.packets = ["eth1", "lo"]
watch.files = ["site"]
directory = "/var/empty"
mount = [{ from = "/etc/nids", to = "/etc/nids" }]
allow-missing = ["limits"]
[hyperspector.alpha.portspace.fim]
on = ["web1"]
root = "/srv/roots/trixie"
command = ["aide"]
[hyperspector.alpha.portspace.gone]
on = ["web1"]
root = "/srv/roots/gone"
command = ["x"]
[hyperspector.beta]
network = "10.66.0.0/16"
port = 5
[hyperspector.beta.portspace.elsewhere]
on = ["web2"]
command = ["not-here"]
"#;

/// A host that has what is in these lists.
struct Host {
    commands: &'static [&'static str],
    paths: &'static [&'static str],
    interfaces: &'static [&'static str],
}

impl Facts for Host {
    fn is_command(&self, root: &Root, command: &str) -> bool {
        let inside =
            if *root == Root::Base { command.to_owned() } else { format!("root:{command}") };
        self.commands.contains(&inside.as_str())
    }
    fn has_interface(&self, name: &str) -> bool {
        self.interfaces.contains(&name)
    }
    fn interfaces(&self) -> Vec<String> {
        self.interfaces.iter().map(|name| (*name).to_owned()).collect()
    }
    fn is_directory(&self, path: &Path) -> bool {
        self.exists(path)
    }
    fn exists(&self, path: &Path) -> bool {
        self.paths.iter().any(|known| Path::new(known) == path)
    }
}

#[test]
fn what_is_not_there_is_named_with_its_place() {
    let spec = Spec::parse(SPEC).unwrap();
    let host =
        Host { commands: &["aide"], paths: &["/srv/roots/trixie"], interfaces: &["lo", "eth0"] };
    let errors = spec.verify("web1", &host).unwrap_err();
    let expected = "\
f:5:9: directory /srv/www is not there
f:10:12: command `suricata` is not in the root /; install it there, or write its absolute path as seen from inside
f:12:18: interface `eth1` is not there; did you mean `eth0`? interfaces here: lo, eth0
f:14:13: directory /var/empty is not there
f:15:10: /etc/nids is not there
f:20:12: command `aide` is not in the root /srv/roots/trixie; install it there, or write its absolute path as seen from inside
f:23:8: directory /srv/roots/gone is not there; make it, for example with mmdebstrap(1)";
    assert_eq!(errors.lines("f", SPEC), expected);
}

#[test]
fn a_host_that_has_everything_is_fine_and_one_with_no_part_needs_nothing() {
    let spec = Spec::parse(SPEC).unwrap();
    let paths = &["/srv/roots/trixie", "/srv/roots/gone", "/srv/www", "/var/empty", "/etc/nids"];
    let commands = &["suricata", "root:aide", "root:x", "not-here"];
    let host = Host { commands, paths, interfaces: &["lo", "eth1"] };
    assert_eq!(spec.verify("web1", &host), Ok(()));
    let bare = Host { commands: &["not-here"], paths: &["/"], interfaces: &[] };
    assert_eq!(spec.verify("web2", &bare), Ok(()));
}

#[test]
fn what_a_mount_brings_need_not_be_in_the_root() {
    let text = "[host.a]\n[hyperspector.h]\nnetwork = \"10.66.0.0/16\"\n\
        [hyperspector.h.portspace.p]\non = [\"a\"]\ncommand = [\"/opt/ids/run\"]\n\
        directory = \"/opt/ids/rules\"\nmount = [{ from = \"/srv/ids\", to = \"/opt/ids\" }]\n";
    let host = Host { commands: &[], paths: &["/srv/ids"], interfaces: &[] };
    assert_eq!(Spec::parse(text).unwrap().verify("a", &host), Ok(()));
}

#[test]
fn a_host_that_is_not_in_the_file_is_an_error_with_the_nearest_name() {
    let spec = Spec::parse(SPEC).unwrap();
    let line = |host: &str| spec.plan(host).unwrap_err().lines("f", SPEC);
    let near =
        "f: host `wbe1` is not in this file; did you mean `web1`? hosts in this file: web1, web2";
    assert_eq!(line("wbe1"), near);
    assert_eq!(line("db"), "f: host `db` is not in this file; hosts in this file: web1, web2");
    let errors = Spec::parse("").unwrap().plan("a\u{1b}").unwrap_err();
    let drawn =
        "error: host `a\\u{1b}` is not in this file\n |\n = help: there are no hosts in this file";
    assert_eq!(errors.render("f", "", false), drawn);
    assert!(spec.verify("db", &Host { commands: &[], paths: &[], interfaces: &[] }).is_err());
}

#[test]
fn what_weakens_a_portspace_is_noted() {
    let spec = Spec::parse(SPEC).unwrap();
    let notes: Vec<_> = spec.notes().iter().map(|note| note.line("f", SPEC)).collect();
    let expected = [
        "f:11:7: portspace `nids` runs with the host's user ids; it can read what only the host's root can; it still has no capability outside",
        "f:16:18: portspace `nids` also runs where a protection is missing; `hyperspector status` shows what is enforced",
    ];
    assert_eq!(notes, expected);
    assert!(spec.notes()[0].render_note("f", SPEC, false).starts_with("note: portspace"));
}

#[test]
fn a_server_spaces_needs_are_looked_up_where_it_runs() {
    let text = "[host.a]\n[host.b]\n[server.shop]\non = [\"a\"]\nroot = \"/srv/roots/shop\"\n\
        command = [\"nginx\"]\nmount = [{ from = \"/srv/www\", to = \"/srv/www\" }]\n\
        [server.gone]\non = [\"a\"]\nroot = \"/srv/roots/gone\"\ncommand = [\"nginx\"]\n\
        [server.plain]\non = [\"a\"]\ncommand = [\"apache2\"]\ndirectory = \"/srv/none\"\n\
        [server.unit]\non = [\"a\"]\nadopt = { unit = \"not-there.service\" }\n";
    let spec = Spec::parse(text).unwrap();
    let host = Host { commands: &[], paths: &["/srv/roots/shop"], interfaces: &[] };
    let expected = "\
f:6:12: command `nginx` is not in the root /srv/roots/shop; install it there, or write its absolute path as seen from inside
f:7:10: /srv/www is not there
f:10:8: directory /srv/roots/gone is not there; make it, for example with mmdebstrap(1)
f:14:12: command `apache2` is not in the root /; install it there, or write its absolute path as seen from inside
f:15:13: directory /srv/none is not there";
    assert_eq!(spec.verify("a", &host).unwrap_err().lines("f", text), expected);
    assert_eq!(spec.verify("b", &host), Ok(()));
    let commands = &["root:nginx", "apache2"];
    let paths = &["/srv/roots/shop", "/srv/roots/gone", "/srv/www", "/srv/none"];
    assert_eq!(spec.verify("a", &Host { commands, paths, interfaces: &[] }), Ok(()));
}

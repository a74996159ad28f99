//! Servers in the plan: which are there, where, and what of them.

use std::path::{Path, PathBuf};

use hyperspector_spec::Spec;
use hyperspector_spec::plan::{
    Adoption, HostPlan, Restart, Root, Run, ServerKind, ServerSpacePlan, SocketKind, SocketWindow,
};

const SPEC: &str = r#"
[host.web1]
endpoint = "192.0.2.11"
key.alpha = "NRMWvuok5d1EKTXSTtOc+deVS5an3w83z/pVWa/GTSA="
[host.web2]
key.alpha = "cnwH5r4Kx/3w35hxT3FLJFW4AbKPObbAyuCL9qIiMxk="
[host.db]
[server.shop]
on = ["web1", "db"]
command = ["nginx", "-g", "daemon off;"]
ports = ["udp/443", "tcp/8000-8010", "tcp/80"]
deny = ["tcp/5432"]
mask = ["config/keys", "/config/keys"]
hide = ["/home"]
mount = [
  { from = "/srv/www/logs", to = "/srv/www/logs", mode = "rw" },
  { from = "/etc/letsencrypt", to = "/etc/letsencrypt" },
  { from = "/srv/www", to = "/srv/www" },
  { from = "/etc/ssl/private/shop", to = "/etc/ssl/private/shop" },
]
restart = "on-failure"
user = "www-data"
[server.unit]
on = ["web1"]
adopt = { unit = "getty@tty1.service" }
[server.container]
on = ["web1"]
adopt = { container = "shop_db.1" }
[server.cgroup]
on = ["web1"]
adopt = { cgroup = "/system.slice//shop.service" }
[server.pid]
on = ["web1"]
adopt = { pid_file = "/run/shop.pid" }
[server.www]
on = ["web1"]
adopt = { directory = "/srv/www/" }
[server.host]
on = ["web1"]
adopt = "base"
mask = ["/root"]
[server.unwatched]
on = ["web1"]
adopt = { unit = "cron.service" }
[hyperspector.alpha]
network = "10.66.0.0/16"
[hyperspector.alpha.portspace.fim]
on = ["web1"]
command = ["aide", "--check"]
watch.files = ["unit", "container", { server = "shop", mask = ["tmp"] }]
watch.changes = ["shop", "www"]
watch.processes = ["cgroup", "pid", "host"]
watch.sockets = [
  { server = "shop", path = "/dev/log" },
  { server = "base", path = "/run/app", to = "/run/base-app", kind = "stream", queue = "64KiB", senders = true },
]
[hyperspector.alpha.portspace.other]
on = ["web2"]
command = ["x"]
"#;

fn plan(host: &str) -> HostPlan {
    let spec = Spec::parse(SPEC).unwrap_or_else(|errors| panic!("{}", errors.lines("f", SPEC)));
    spec.plan(host).unwrap()
}

fn space<'a>(plan: &'a HostPlan, name: &str) -> &'a ServerSpacePlan {
    match &plan.server(name).unwrap().kind {
        ServerKind::Space(space) => space,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_host_has_its_server_spaces_and_what_is_watched_there() {
    let names = |host: &str| -> Vec<String> {
        plan(host).servers.into_iter().map(|server| server.name).collect()
    };
    let web1 = ["base", "cgroup", "container", "host", "pid", "shop", "unit", "www"];
    assert_eq!(names("web1"), web1);
    assert_eq!(names("web2"), [""; 0]);
    // No portspace is there, and nobody watches it: the server runs all the same.
    assert_eq!(names("db"), ["shop"]);
    assert!(plan("db").hyperspectors.is_empty());
}

#[test]
fn each_adoption_is_planned_as_it_is_written() {
    let plan = plan("web1");
    let adopted = [
        ("base", Adoption::Base),
        ("host", Adoption::Base),
        ("unit", Adoption::Unit("getty@tty1.service".into())),
        ("container", Adoption::Container("shop_db.1".into())),
        ("cgroup", Adoption::Cgroup("system.slice/shop.service".into())),
        ("pid", Adoption::PidFile("/run/shop.pid".into())),
        ("www", Adoption::Directory("/srv/www".into())),
    ];
    for (name, adoption) in adopted {
        assert_eq!(plan.server(name).unwrap().kind, ServerKind::Adopted(adoption), "{name}");
    }
    assert_eq!(plan.server("host").unwrap().mask, [PathBuf::from("/root")]);
}

#[test]
fn a_server_space_is_planned_like_a_portspace_with_ports() {
    let plan = plan("web1");
    let shop = space(&plan, "shop");
    assert_eq!(shop.space.hostname, "shop.web1");
    assert_eq!(shop.space.root, Root::Base);
    assert_eq!(shop.space.user, "www-data");
    assert_eq!(shop.space.run, Run::Service { restart: Restart::OnFailure });
    let ports: Vec<_> = shop.ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["tcp/80", "tcp/8000-8010", "udp/443"]);
    assert_eq!(shop.deny[0].to_string(), "tcp/5432");
    let mounts: Vec<_> = shop
        .space
        .mounts
        .iter()
        .map(|mount| (mount.to.to_str().unwrap(), mount.writable))
        .collect();
    let sorted = [
        ("/etc/letsencrypt", false),
        ("/etc/ssl/private/shop", false),
        ("/srv/www", false),
        ("/srv/www/logs", true),
    ];
    assert_eq!(mounts, sorted);
}

#[test]
fn what_is_mounted_over_a_hidden_path_is_seen_and_nothing_else_of_it() {
    let plan = plan("web1");
    let mask = &space(&plan, "shop").space.mask;
    let hides = |path: &str| mask.iter().any(|hidden| hidden == Path::new(path));
    assert!(hides("/etc/shadow") && hides("/home"));
    assert!(hides("/etc/ssl/private"), "what is mounted below it is seen, and nothing beside that");
    assert!(!hides("/etc/letsencrypt"), "the file mounts something there");
    assert!(!hides("/config/keys"), "that is hidden from those who watch, not from the server");
    assert_eq!(plan.server("shop").unwrap().mask, [PathBuf::from("/config/keys")]);
}

#[test]
fn windows_are_planned_with_their_defaults() {
    let plan = plan("web1");
    let windows = &plan.hyperspectors[0].portspaces[0].windows;
    let shop = windows.files.iter().find(|window| window.server == "shop").unwrap();
    assert_eq!(shop.mask, [PathBuf::from("/config/keys"), PathBuf::from("/tmp")]);
    assert_eq!(windows.changes, ["shop", "www"]);
    assert_eq!(windows.processes, ["cgroup", "pid", "host"]);
    let sockets = [
        SocketWindow {
            server: "shop".into(),
            path: "/dev/log".into(),
            kind: SocketKind::Dgram,
            to: "/dev/log".into(),
            queue: 1 << 20,
            senders: false,
        },
        SocketWindow {
            server: "base".into(),
            path: "/run/app".into(),
            kind: SocketKind::Stream,
            to: "/run/base-app".into(),
            queue: 64 << 10,
            senders: true,
        },
    ];
    assert_eq!(windows.sockets, sockets);
}

#[test]
fn what_a_window_shows_of_everybody_is_noted() {
    let spec = Spec::parse(SPEC).unwrap();
    let notes: Vec<_> = spec.notes().iter().map(|note| note.line("f", SPEC)).collect();
    let expected = [
        "f:16:3: server `shop` can write to /srv/www/logs of the host; what its root writes there \
         belongs to root of the host; set-user-ID files cannot be made, in this server space",
        "f:50:24: owners of files of server `container` show unshifted; the kernel cannot shift \
         them where the container's root is an overlay: root's files show as nobody's, and those \
         that only root may read cannot be read; ids = \"host\" can",
        "f:50:48: owners of files of server `shop` show unshifted; the kernel cannot shift them on \
         an overlay: each shows as a number of the server's own range; everything can be read",
        "f:51:18: changes of server `shop` show what its file window hides; to hide it in every \
         window, name it in `mask` of [server.shop]",
        "f:52:37: portspace `fim` sees every process of the host, portspaces' too; their names and \
         command lines show, those of other HyperSpectors among them; adopt one unit or cgroup to \
         show just that",
    ];
    assert_eq!(notes, expected);
}

#[test]
fn a_portspace_with_the_hosts_ids_sees_owners_as_they_are_anyway() {
    let text = SPEC.replace("command = [\"aide\"", "ids = \"host\"\ncommand = [\"aide\"");
    let notes = Spec::parse(&text).unwrap().notes();
    assert!(notes.iter().all(|note| !note.message.contains("owners")), "{notes:?}");
    assert!(notes.iter().any(|note| note.message.contains("the host's user ids")), "{notes:?}");
}

//! What holds for every spec: addresses that nothing moves, plans that agree, errors in their place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Component, Path};

use hyperspector_spec::Spec;
use hyperspector_spec::plan::{Adoption, HostPlan, Protocol, ServerKind};
use proptest::prelude::*;

/// Hosts, and portspaces with the hosts that they are on.
#[derive(Clone, Debug)]
struct Fleet {
    hosts: Vec<String>,
    portspaces: Vec<(String, Vec<String>)>,
}

impl Fleet {
    fn toml(&self, network: &str) -> String {
        let mut text = String::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let key = format!("{:A>42}A=", index + 10);
            write!(text, "[host.{host}]\nendpoint = \"{host}.example\"\nkey.h = \"{key}\"\n")
                .unwrap();
        }
        write!(text, "[hyperspector.h]\nnetwork = \"{network}\"\n").unwrap();
        for (name, on) in &self.portspaces {
            write!(text, "[hyperspector.h.portspace.{name}]\non = {on:?}\ncommand = [\"x\"]\n")
                .unwrap();
        }
        text
    }

    /// All plans, or `None` where two addresses fall together.
    fn plans(&self, network: &str) -> Option<Vec<HostPlan>> {
        let text = self.toml(network);
        let spec = match Spec::parse(&text) {
            Ok(spec) => spec,
            Err(errors) => {
                let collision = |e: &hyperspector_spec::SpecError| e.message.contains("falls on");
                assert!(errors.iter().all(collision), "{}", errors.lines("f", &text));
                return None;
            }
        };
        Some(self.hosts.iter().map(|host| spec.plan(host).unwrap()).collect())
    }
}

/// Addresses by the host name inside.
fn addresses(plans: &[HostPlan]) -> BTreeMap<String, std::net::Ipv4Addr> {
    let hyperspectors = plans.iter().flat_map(|plan| &plan.hyperspectors);
    let portspaces = hyperspectors.flat_map(|hyperspector| &hyperspector.portspaces);
    portspaces.map(|portspace| (portspace.space.hostname.clone(), portspace.address)).collect()
}

fn names(prefix: &str, most: usize) -> impl Strategy<Value = Vec<String>> + use<> {
    let numbers = proptest::collection::btree_set(0_u32..1000, 1..=most);
    let prefix = prefix.to_owned();
    let named =
        move |set: BTreeSet<u32>| set.iter().map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
    numbers.prop_map(named).prop_shuffle()
}

fn fleet() -> impl Strategy<Value = Fleet> {
    (names("w", 5), names("p", 5)).prop_flat_map(|(hosts, portspaces)| {
        let some_hosts = proptest::sample::subsequence(hosts.clone(), 1..=hosts.len());
        let on = proptest::collection::vec(some_hosts, portspaces.len());
        on.prop_map(move |on| Fleet {
            hosts: hosts.clone(),
            portspaces: portspaces.iter().cloned().zip(on).collect(),
        })
    })
}

/// Sections with every key that servers and their windows have.
const SERVERS: &str = r#"
[server.space]
on = ["web1", "web2"]
command = ["nginx", "-g", "daemon off;"]
root = "/srv/roots/trixie"
ids = "host"
user = "www-data"
directory = "/srv"
environment = { TZ = "UTC" }
mount = [{ from = "/srv/www", to = "/srv/www", mode = "rw" }]
restart = "on-failure"
keep = ["/var/lib/shop"]
mask = ["config/keys"]
hide = ["/home"]
limits = { memory = "1GiB" }
stop-grace = "5s"
allow-missing = ["limits"]
ports = ["tcp/80", "udp/53", "tcp/8000-8010"]
deny = ["tcp/5432"]
[server.unit]
on = ["web1"]
adopt = { unit = "nginx.service" }
[server.container]
on = ["web1"]
adopt = { container = "shop" }
[server.cgroup]
on = ["web1"]
adopt = { cgroup = "/system.slice/shop.service" }
[server.pid]
on = ["web1"]
adopt = { pid_file = "/run/shop.pid" }
[hyperspector.alpha.portspace.windows]
on = ["web1"]
command = ["x"]
watch.changes = ["space", "unit"]
watch.processes = ["container", "cgroup", "base"]
watch.sockets = [
  { server = "space", path = "/dev/log", kind = "dgram", queue = "4MiB", senders = true },
  { server = "pid", path = "/run/app", to = "/run/app2", kind = "seqpacket" },
]
"#;

/// A list of ports that do not overlap each other, as text and as what they are.
fn ports() -> impl Strategy<Value = Vec<(bool, u16, u16)>> {
    proptest::collection::vec((any::<bool>(), 1_u16..400, 0_u16..40), 1..6)
        .prop_map(|list| list.into_iter().map(|(tcp, low, more)| (tcp, low, low + more)).collect())
}

fn toml_ports(ports: &[(bool, u16, u16)]) -> String {
    let word = |(tcp, low, high): &(bool, u16, u16)| {
        let protocol = if *tcp { "tcp" } else { "udp" };
        if low == high { format!("{protocol}/{low}") } else { format!("{protocol}/{low}-{high}") }
    };
    format!("{:?}", ports.iter().map(word).collect::<Vec<_>>())
}

/// Whether some port is in two of the ranges, found port by port.
fn clash(ranges: impl Iterator<Item = (bool, u16, u16)>) -> bool {
    let mut taken = BTreeSet::new();
    ranges
        .flat_map(|(tcp, low, high)| (low..=high).map(move |port| (tcp, port)))
        .any(|port| !taken.insert(port))
}

proptest! {
    #[test]
    fn ports_are_given_away_once(one in ports(), two in ports()) {
        let text = format!(
            "[host.a]\n[server.one]\non = [\"a\"]\ncommand = [\"x\"]\nports = {}\n\
             [server.two]\non = [\"a\"]\ncommand = [\"x\"]\nports = {}\n",
            toml_ports(&one), toml_ports(&two)
        );
        let read = Spec::parse(&text);
        prop_assert_eq!(read.is_err(), clash(one.iter().chain(&two).copied()));
        if let Ok(spec) = read {
            let plan = spec.plan("a").unwrap();
            let ServerKind::Space(space) = &plan.server("one").unwrap().kind else { panic!() };
            let planned: BTreeSet<_> = space.ports.iter()
                .map(|p| (p.protocol == Protocol::Tcp, p.first, p.last)).collect();
            prop_assert_eq!(planned, one.into_iter().collect());
        }
    }

    #[test]
    fn whatever_is_adopted_is_a_plain_name_or_a_plain_path(
        key in "directory|unit|container|cgroup|pid_file", value in "/?([a-z0-9]|[@/.:_ -]|\\PC){0,8}(\\.service)?"
    ) {
        let value = toml::Value::from(value);
        let text = format!("[host.a]\n[server.s]\non = [\"a\"]\nadopt = {{ {key} = {value} }}\n\
            [hyperspector.h]\nnetwork = \"10.66.0.0/16\"\n[hyperspector.h.portspace.p]\n\
            on = [\"a\"]\ncommand = [\"x\"]\nwatch.files = [\"s\"]\n");
        let Ok(spec) = Spec::parse(&text) else { return Ok(()) };
        let plan = spec.plan("a").unwrap();
        let normal = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
        let below = |path: &Path| path.strip_prefix("/").is_ok_and(normal) && path != Path::new("/");
        let name = |name: &str| !name.is_empty() && !name.contains(['/', '\0', ' ', '\n']);
        match &plan.server("s").unwrap().kind {
            ServerKind::Adopted(Adoption::Directory(path) | Adoption::PidFile(path)) => {
                prop_assert!(below(path), "{path:?}")
            }
            ServerKind::Adopted(Adoption::Cgroup(path)) => {
                prop_assert!(normal(path) && !path.as_os_str().is_empty(), "{path:?}")
            }
            ServerKind::Adopted(Adoption::Unit(unit)) => {
                prop_assert!(name(unit) && unit.contains('.'), "{unit:?}")
            }
            ServerKind::Adopted(Adoption::Container(container)) => {
                prop_assert!(name(container), "{container:?}")
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn nothing_that_is_added_moves_an_address(
        fleet in fleet(), at in any::<prop::sample::Index>(), host_at in any::<prop::sample::Index>()
    ) {
        let before = fleet.plans("10.0.0.0/8");
        prop_assume!(before.is_some());
        let mut more = fleet.clone();
        more.hosts.insert(host_at.index(fleet.hosts.len() + 1), "new".to_owned());
        for (_, on) in &mut more.portspaces {
            on.insert(host_at.index(on.len() + 1), "new".to_owned());
        }
        let all = more.hosts.clone();
        more.portspaces.insert(at.index(fleet.portspaces.len() + 1), ("new".to_owned(), all));
        let after = more.plans("10.0.0.0/8");
        prop_assume!(after.is_some());
        let after = addresses(&after.unwrap());
        for (name, address) in addresses(&before.unwrap()) {
            prop_assert_eq!(after.get(&name), Some(&address));
        }
    }

    #[test]
    fn the_plans_of_a_fleet_agree(fleet in fleet()) {
        let plans = fleet.plans("10.0.0.0/12");
        prop_assume!(plans.is_some());
        let plans = plans.unwrap();
        let addresses = addresses(&plans);
        let distinct: BTreeSet<_> = addresses.values().collect();
        prop_assert_eq!(distinct.len(), addresses.len());
        let parts: Vec<_> =
            plans.iter().filter_map(|p| Some((&p.host, p.hyperspectors.first()?))).collect();
        for (host, part) in &parts {
            let named: BTreeMap<_, _> =
                part.names.iter().map(|(address, names)| (names[0].clone(), *address)).collect();
            prop_assert_eq!(&named, &addresses);
            for (other, other_part) in parts.iter().filter(|(other, _)| other != host) {
                let peer = part.vpn.peers.iter().find(|peer| peer.host == **other).unwrap();
                let allowed: BTreeSet<_> = peer.allowed.iter().map(|net| net.addr()).collect();
                let theirs: BTreeSet<_> =
                    other_part.portspaces.iter().map(|portspace| portspace.address).collect();
                prop_assert_eq!(allowed, theirs);
                prop_assert_eq!(Some(&peer.public_key), other_part.vpn.public_key.as_ref());
            }
            prop_assert_eq!(part.vpn.peers.len(), parts.len() - 1);
        }
    }

    #[test]
    fn doing_what_the_help_says_makes_a_crowded_network_right(fleet in fleet()) {
        let mut text = fleet.toml("10.66.0.0/27");
        if let Err(errors) = Spec::parse(&text) {
            // From the end, so that the places before stay where they are.
            for error in errors.iter().collect::<Vec<_>>().into_iter().rev() {
                let help = error.help.as_deref().unwrap();
                let line = help.strip_prefix("add this line: ").unwrap();
                let end = error.span.start + text[error.span.start..].find('\n').unwrap();
                text.insert_str(end + 1, &format!("{line}\n"));
            }
            Spec::parse(&text).unwrap_or_else(|errors| panic!("{}", errors.lines("f", &text)));
        }
    }

    #[test]
    fn errors_have_a_place_in_whatever_text(
        text in "(\\[+|\\]|server|adopt|command|ports|watch|host|hyperspector|\\.|a|b|portspace|on|=|\"|'|\n|\\{|\\}|,|1|µ|\t|\u{1}| |#){0,40}"
    ) {
        whole(&text)?;
    }

    #[test]
    fn a_damaged_spec_is_read_or_refused(
        from in any::<prop::sample::Index>(), length in 0_usize..40, put in "\\PC{0,3}"
    ) {
        let mut text = include_str!("../../../examples/fleet.toml").to_owned() + SERVERS;
        let floor = |mut at: usize| { while !text.is_char_boundary(at) { at -= 1 } at };
        let start = floor(from.index(text.len()));
        let end = floor((start + length).min(text.len()));
        text.replace_range(start..end, &put);
        whole(&text)?;
    }
}

#[test]
fn the_spec_that_gets_damaged_is_right() {
    let text = include_str!("../../../examples/fleet.toml").to_owned() + SERVERS;
    Spec::parse(&text).unwrap_or_else(|errors| panic!("{}", errors.lines("f", &text)));
}

/// Every error can be shown, and its place is in the text.
fn whole(text: &str) -> Result<(), TestCaseError> {
    let Err(errors) = Spec::parse(text) else { return Ok(()) };
    for error in &errors {
        prop_assert!(text.get(error.span.clone()).is_some(), "{error:?}");
        prop_assert!(!error.message.contains(char::is_control));
    }
    prop_assert!(errors.lines("f", text).lines().count() == errors.iter().count());
    prop_assert!(!errors.render("f", text, true).is_empty());
    Ok(())
}

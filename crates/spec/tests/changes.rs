//! What an edit of the spec means for what runs.

use hyperspector_spec::Spec;
use hyperspector_spec::plan::{Change, Changes, HostPlan, diff};

const SPEC: &str = r#"
[host.web1]
endpoint = "192.0.2.11"
key.alpha = "NRMWvuok5d1EKTXSTtOc+deVS5an3w83z/pVWa/GTSA="
[host.web2]
endpoint = "192.0.2.12"
key.alpha = "cnwH5r4Kx/3w35hxT3FLJFW4AbKPObbAyuCL9qIiMxk="
[host.web3]
key.alpha = "ogDrJp+JscEgARH6naSO1D+L6RYHEsnEYiMIs9XrTII="
[hyperspector.alpha]
network = "10.66.0.0/16"
[hyperspector.alpha.portspace.fim]
on = ["web1"]
command = ["aide", "--check"]
every = "15min"
[hyperspector.alpha.portspace.nids]
on = ["web1", "web2"]
command = ["suricata"]
watch.packets = ["eth0"]
"#;

/// What web1 does by a spec.
fn plan(text: &str) -> HostPlan {
    match Spec::parse(text) {
        Ok(spec) => spec.plan("web1").unwrap(),
        Err(errors) => panic!("{}", errors.lines("f", text)),
    }
}

/// What web1 has to do after an edit of `spec`.
fn edited(spec: &str, from: &str, to: &str) -> Changes {
    assert!(spec.contains(from), "{from}");
    diff(Some(&plan(spec)), &plan(&spec.replace(from, to)))
}

/// Tries each edit of `spec` for what it changes, which comes after `first`.
fn expect(spec: &str, first: &str, cases: &[(&str, &str, &str)]) {
    for (from, to, expected) in cases {
        let changes = edited(spec, from, to).to_string();
        assert_eq!(changes, format!("{first}{expected}"), "{from} -> {to}");
    }
}

#[test]
fn the_same_spec_changes_nothing() {
    let changes = diff(Some(&plan(SPEC)), &plan(SPEC));
    assert!(changes.is_empty());
    assert_eq!(changes.to_string(), "");
    assert_eq!(changes.hyperspectors[0].portspaces.len(), 2);
}

#[test]
fn on_a_new_host_everything_is_added() {
    let plan = plan(SPEC);
    let changes = diff(None, &plan);
    assert_eq!(changes.to_string(), "+ alpha\n+ alpha peer web2\n+ alpha/fim\n+ alpha/nids\n");
    assert!(!changes.hyperspectors[0].portspaces[0].restart);
    let nothing = Spec::parse("[host.web1]").unwrap().plan("web1").unwrap();
    let back = diff(Some(&plan), &nothing);
    assert_eq!(back.to_string(), "- alpha\n- alpha peer web2\n- alpha/fim\n- alpha/nids\n");
}

#[test]
fn each_edit_changes_what_it_names_and_restarts_what_it_must() {
    let cases: [(&str, &str, &str); 24] = [
        (
            "\"cnwH5r4Kx/3w35hxT3FLJFW4AbKPObbAyuCL9qIiMxk=\"",
            "[\"cnwH5r4Kx/3w35hxT3FLJFW4AbKPObbAyuCL9qIiMxk=\", \
             \"EUDPTZEI3V3q5CdzeKNAep3z6eIvxOmO/YrhS1Cdt84=\"]",
            "~ alpha peer web2: key\n",
        ),
        ("\"suricata\"]", "\"suricata\", \"-v\"]", "~ alpha/nids: command (restart)\n"),
        ("[\"eth0\"]", "[\"eth1\"]", "~ alpha/nids: watch.packets (restart)\n"),
        ("15min", "1h", "~ alpha/fim: every (restart)\n"),
        ("every = \"15min\"", "restart = \"never\"", "~ alpha/fim: every (restart)\n"),
        (
            "[\"suricata\"]",
            "[\"suricata\"]\nrestart = \"never\"",
            "~ alpha/nids: restart (restart)\n",
        ),
        (
            "[\"suricata\"]",
            "[\"suricata\"]\nstop-grace = \"1s\"",
            "~ alpha/nids: stop-grace (restart)\n",
        ),
        ("[\"suricata\"]", "[\"suricata\"]\nlimits.pids = 7", "~ alpha/nids: limits\n"),
        ("[\"suricata\"]", "[\"suricata\"]\nmask = [\"/x\"]", "~ alpha/nids: mask (restart)\n"),
        ("[\"suricata\"]", "[\"suricata\"]\nids = \"host\"", "~ alpha/nids: ids (restart)\n"),
        (
            "[\"suricata\"]",
            "[\"suricata\"]\nroot = \"/srv/r\"",
            "~ alpha/nids: root, mask (restart)\n",
        ),
        (
            "[\"suricata\"]",
            "[\"suricata\"]\nuser = \"x\"\ndirectory = \"/x\"\nenvironment.A = \"b\"",
            "~ alpha/nids: environment, user, directory (restart)\n",
        ),
        (
            "[\"suricata\"]",
            "[\"suricata\"]\nkeep = [\"/x\"]\nlimits.pids = 9\nallow-missing = [\"limits\"]\n\
             mount = [{ from = \"/a\", to = \"/a\" }]",
            "~ alpha/nids: keep, mount, limits, allow-missing (restart)\n",
        ),
        (
            "[\"suricata\"]",
            "[\"suricata\"]\naddress.web1 = \"10.66.0.9\"",
            "~ alpha names\n~ alpha/nids: address (restart)\n",
        ),
        ("0.0/16\"", "0.0/16\"\nallow = \"all\"", "~ alpha hub: allow\n"),
        ("0.0/16\"", "0.0/16\"\ncollectors = [\"nids\"]", "~ alpha hub: allow\n"),
        ("[\"suricata\"]", "[\"suricata\"]\nrate = \"none\"", "~ alpha hub: rate\n"),
        (
            "0.0/16\"",
            "0.0/16\"\ncollectors = [\"fim\"]\ntopology = \"collectors\"",
            "~ alpha hub: allow\n",
        ),
        ("192.0.2.12", "192.0.2.13", "~ alpha peer web2: endpoint\n"),
        ("key.alpha = \"cnwH", "key.alpha = \"anwH", "~ alpha peer web2: key\n"),
        ("key.alpha = \"NRMW", "key.alpha = \"aRMW", "~ alpha vpn: key\n"),
        ("0.0/16\"", "0.0/16\"\nkeepalive = \"9s\"", "~ alpha peer web2: keepalive\n"),
        (
            "0.0/16\"",
            "0.0/16\"\nport = 5\nvpn = \"embedded\"",
            "~ alpha vpn: port, vpn\n~ alpha peer web2: endpoint\n",
        ),
        (
            "0.0/16\"",
            "0.0/16\"\nmtu = 1280",
            "~ alpha vpn: mtu\n~ alpha/fim: mtu (restart)\n~ alpha/nids: mtu (restart)\n",
        ),
    ];
    expect(SPEC, "~ alpha\n", &cases);
}

#[test]
fn what_joins_elsewhere_changes_names_and_peers_and_restarts_nothing() {
    let changes = edited(SPEC, "[\"web1\", \"web2\"]", "[\"web1\", \"web2\", \"web3\"]");
    assert_eq!(changes.to_string(), "~ alpha\n+ alpha peer web3\n~ alpha names\n");
    let alpha = &changes.hyperspectors[0];
    assert_eq!(
        (alpha.change, alpha.vpn.change, alpha.names),
        (Change::Changed, Change::Changed, true)
    );
    assert!(alpha.portspaces.iter().all(|p| p.change == Change::Unchanged && !p.restart));
}

#[test]
fn another_network_restarts_all_of_a_hyperspector() {
    let changes = edited(SPEC, "10.66.0.0/16", "10.67.0.0/16");
    assert!(changes.hyperspectors[0].portspaces.iter().all(|portspace| portspace.restart));
    assert_eq!(changes.hyperspectors[0].vpn.fields, ["network"]);
}

#[test]
fn the_order_of_the_file_means_nothing() {
    let (head, portspaces) =
        SPEC.split_at(SPEC.find("[hyperspector.alpha.portspace.fim]").unwrap());
    let (fim, nids) =
        portspaces.split_at(portspaces.find("[hyperspector.alpha.portspace.nids]").unwrap());
    let turned = format!("{nids}{fim}{head}");
    assert_eq!(plan(SPEC), plan(&turned));
}

const SERVERS: &str = r#"
[host.web1]
[server.shop]
on = ["web1"]
command = ["nginx"]
ports = ["tcp/80"]
[server.unit]
on = ["web1"]
adopt = { unit = "nginx.service" }
[hyperspector.alpha]
network = "10.66.0.0/16"
[hyperspector.alpha.portspace.fim]
on = ["web1"]
command = ["aide"]
watch.files = ["shop", "unit"]
"#;

#[test]
fn a_servers_edit_restarts_the_server_where_it_must_and_no_portspace() {
    let cases = [
        ("\"nginx\"]", "\"nginx\", \"-q\"]", "~ server shop: command (restart)\n"),
        ("tcp/80", "tcp/81", "~ server shop: ports\n"),
        ("ports =", "deny = [\"tcp/1\"]\nports =", "~ server shop: deny\n"),
        ("ports =", "limits.pids = 7\nports =", "~ server shop: limits\n"),
        ("ports =", "hide = [\"/x\"]\nports =", "~ server shop: hide (restart)\n"),
        (
            "ports =",
            "mount = [{ from = \"/x\", to = \"/x\", mode = \"rw\" }]\nports =",
            "~ server shop: mount (restart)\n",
        ),
        ("[\"tcp/80\"]", "[\"udp/5\", \"tcp/80\"]", "~ server shop: ports\n"),
        ("unit = \"nginx.service\"", "container = \"nginx\"", "~ server unit: adopt\n"),
        (
            "adopt = { unit = \"nginx.service\" }",
            "command = [\"nginx\"]",
            "~ server unit: command, adopt (restart)\n",
        ),
        (
            "[server.unit]",
            "[server.new]\non = [\"web1\"]\ncommand = [\"x\"]\n[server.unit]",
            "+ server new\n",
        ),
        ("[server.unit]", "[server.new]\non = [\"web1\"]\nadopt = \"base\"\n[server.unit]", ""),
    ];
    expect(SERVERS, "", &cases);
}

#[test]
fn a_portspace_restarts_when_its_windows_are_others() {
    let cases = [
        (
            "watch.files = [\"shop\", \"unit\"]",
            "watch.files = [\"shop\"]",
            "- server unit\n~ alpha\n~ alpha/fim: watch.files (restart)\n",
        ),
        (
            "watch.files =",
            "watch.changes = [\"shop\"]\nwatch.processes = [\"shop\"]\n\
             watch.sockets = [{ server = \"shop\", path = \"/dev/log\" }]\nwatch.files =",
            "~ alpha\n~ alpha/fim: watch.changes, watch.sockets, watch.processes (restart)\n",
        ),
        // The mask is part of what the window shows.
        (
            "ports =",
            "mask = [\"/x\"]\nports =",
            "~ server shop: mask\n~ alpha\n~ alpha/fim: watch.files (restart)\n",
        ),
    ];
    expect(SERVERS, "", &cases);
}

#[test]
fn a_host_with_nothing_but_a_server_has_something_to_do() {
    let text = "[host.db]\n[server.shop]\non = [\"db\"]\ncommand = [\"nginx\"]\n";
    let plan = Spec::parse(text).unwrap().plan("db").unwrap();
    assert!(!diff(None, &plan).is_empty());
    assert!(diff(Some(&plan), &plan).is_empty());
    assert_eq!(diff(None, &plan).to_string(), "+ server shop\n");
}

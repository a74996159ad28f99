//! What must hold between the sections of a file.

use std::collections::BTreeMap;

use crate::errors::SpecError;
use crate::model::{Endpoints, Host, Hyperspector, Model};
use crate::read::DEFAULT_PORT;
use crate::read::overlap;
use crate::reader::{At, Problems};
use crate::words::suggest;

mod allow;
mod notes;
mod servers;
mod windows;

pub(crate) use notes::notes;

/// The greatest host name that the kernel takes, in bytes (HOST_NAME_MAX, sethostname(2)).
const LONGEST_HOSTNAME: usize = 64;

/// Notes everything that is wrong between sections.
pub(crate) fn check(model: &Model, problems: &Problems) {
    for host in &model.hosts {
        hyperspectors_are_known(model, host, problems);
        endpoint_port_is_for_one(model, host, problems);
    }
    keys_differ(model, problems);
    ports_differ(model, problems);
    for server in &model.servers {
        hosts_are_known(model, &server.on, problems);
        if server.space().is_some() {
            hostname_fits(&server.name, &server.on, problems);
        }
    }
    servers::ports_are_free(model, problems);
    for hyperspector in &model.hyperspectors {
        networks_are_apart(hyperspector, problems);
        hosts_can_join(model, hyperspector, problems);
        allow::ends_are_known(hyperspector, problems);
        for portspace in &hyperspector.portspaces {
            hosts_are_known(model, &portspace.on, problems);
            hostname_fits(&portspace.name, &portspace.on, problems);
            windows::servers_are_there(model, portspace, problems);
        }
    }
    windows::kinds_agree(model, problems);
}

fn hosts_are_known(model: &Model, on: &[At<String>], problems: &Problems) {
    let known: Vec<_> = model.hosts.iter().map(|host| host.name.value.as_str()).collect();
    for host in on.iter().filter(|host| !known.contains(&host.value.as_str())) {
        let message = format!("host `{}` is not in this file", host.value);
        let help = suggest(&host.value, "hosts in this file", &known);
        problems.add(SpecError::new(host.span.clone(), message).help(help));
    }
}

/// `key.NAME` and `endpoint.NAME` are for HyperSpectors that there are.
fn hyperspectors_are_known(model: &Model, host: &Host, problems: &Problems) {
    let known: Vec<_> = model.hyperspectors.iter().map(|h| h.name.value.as_str()).collect();
    let mut named: Vec<_> = host.keys.iter().map(|(name, _)| name).collect();
    if let Endpoints::Each(each) = &host.endpoint {
        named.extend(each.iter().map(|(name, _)| name));
    }
    for name in named.into_iter().filter(|name| !known.contains(&name.value.as_str())) {
        let message = format!("HyperSpector `{}` is not in this file", name.value);
        let help = suggest(&name.value, "HyperSpectors in this file", &known);
        problems.add(SpecError::new(name.span.clone(), message).help(help));
    }
}

/// A port in an endpoint leads to one HyperSpector's VPN, so it cannot serve two.
fn endpoint_port_is_for_one(model: &Model, host: &Host, problems: &Problems) {
    let Endpoints::All(endpoints) = &host.endpoint else { return };
    let on_host = model.hyperspectors.iter().filter(|h| h.hosts().contains(&&*host.name.value));
    let names: Vec<_> = on_host.map(|h| h.name.value.as_str()).collect();
    let with_port = endpoints.iter().find_map(|one| Some((one, one.value.port?)));
    if let (Some((endpoint, port)), [first, _, ..]) = (with_port, names.as_slice()) {
        let list = names.join(", ");
        let message = format!("port {port} cannot lead to {} VPNs: {list}", names.len());
        let example = format!("endpoint.{first} = \"{}:{port}\"", endpoint.value.address);
        let help = format!("leave the port out, or write one for each: {example}");
        problems.add(SpecError::new(endpoint.span.clone(), message).help(help));
    }
}

/// Each host and HyperSpector has a key of its own.
fn keys_differ(model: &Model, problems: &Problems) {
    let mut owners: BTreeMap<&str, String> = BTreeMap::new();
    for host in &model.hosts {
        let each =
            host.keys.iter().flat_map(|(name, keys)| keys.iter().map(move |key| (name, key)));
        for (hyperspector, key) in each.filter(|(_, key)| !key.value.is_empty()) {
            let (name, hyperspector) = (&host.name.value, &hyperspector.value);
            if let Some(owner) = owners.get(key.value.as_str()) {
                let message = format!("this is also the key of {owner}");
                let help =
                    format!("run `hyperspector key {hyperspector}` on {name} and paste its line");
                problems.add(SpecError::new(key.span.clone(), message).help(help));
            } else {
                owners.insert(&key.value, format!("host `{name}` for `{hyperspector}`"));
            }
        }
    }
}

/// Two VPNs on one host cannot have the same UDP port.
fn ports_differ(model: &Model, problems: &Problems) {
    let mut used: Vec<u16> = model.hyperspectors.iter().map(|h| h.port.value).collect();
    for (index, second) in model.hyperspectors.iter().enumerate() {
        let hosts = second.hosts();
        let clash = model.hyperspectors[..index].iter().find_map(|first| {
            let shared = first.hosts().into_iter().find(|host| hosts.contains(host))?;
            (first.port.value == second.port.value).then_some((first, shared))
        });
        let Some((first, host)) = clash else { continue };
        let port = second.port.value;
        let message = format!(
            "UDP port {port} on host {host} is that of HyperSpector `{}`",
            first.name.value
        );
        let free = (DEFAULT_PORT..=u16::MAX).chain(1024..DEFAULT_PORT).find(|p| !used.contains(p));
        let mut error = SpecError::new(second.port.span.clone(), message);
        if let Some(free) = free {
            used.push(free);
            error =
                error.help(format!("write in [hyperspector.{}]: port = {free}", second.name.value));
        }
        problems.add(error);
    }
}

fn networks_are_apart(hyperspector: &Hyperspector, problems: &Problems) {
    for (index, network) in hyperspector.networks.iter().enumerate() {
        let earlier = &hyperspector.networks[..index];
        if let Some(other) = earlier.iter().find(|other| overlap(&other.value, &network.value)) {
            let message = format!("{} overlaps {}", network.value, other.value);
            let help = "the networks of a HyperSpector have no address in common";
            problems.add(SpecError::new(network.span.clone(), message).help(help));
        }
    }
}

/// Where a HyperSpector has several hosts, each has a key, and one at least can be called.
fn hosts_can_join(model: &Model, hyperspector: &Hyperspector, problems: &Problems) {
    let name = &hyperspector.name.value;
    let hosts: Vec<_> = hyperspector.hosts().into_iter().filter_map(|h| model.host(h)).collect();
    for host in &hosts {
        endpoint_is_outside(host, hyperspector, problems);
    }
    if hosts.len() < 2 {
        return;
    }
    for host in hosts.iter().filter(|host| host.keys(name).next().is_none()) {
        let host_name = &host.name.value;
        let message = format!("host `{host_name}` has no key for HyperSpector `{name}`");
        let help = format!("run `hyperspector key {name}` on {host_name} and paste its line");
        problems.add(SpecError::new(host.header.clone(), message).help(help));
    }
    let only_calls = |host: &&Host| {
        host.endpoints(name).is_empty() && !matches!(host.endpoint, Endpoints::Unreadable)
    };
    if hosts.iter().all(only_calls) {
        let message = format!("no host of HyperSpector `{name}` has an endpoint");
        let help = "add to the section of one that the others can reach: endpoint = \"192.0.2.11\"";
        problems.add(SpecError::new(hyperspector.header.clone(), message).help(help));
    }
}

fn endpoint_is_outside(host: &Host, hyperspector: &Hyperspector, problems: &Problems) {
    for endpoint in host.endpoints(&hyperspector.name.value) {
        let Ok(address) = endpoint.value.address.parse::<std::net::Ipv4Addr>() else { continue };
        let inside = hyperspector.networks.iter().find(|n| n.value.contains(&address));
        let Some(network) = inside else { continue };
        let (network, name) = (&network.value, &hyperspector.name.value);
        let message =
            format!("endpoint {address} is inside {network}, the network of HyperSpector `{name}`");
        let help = "choose another network for the HyperSpector: its addresses are its own";
        problems.add(SpecError::new(endpoint.span.clone(), message).help(help));
    }
}

fn hostname_fits(name: &At<String>, on: &[At<String>], problems: &Problems) {
    for on in on {
        let length = name.value.len() + 1 + on.value.len();
        if length > LONGEST_HOSTNAME {
            let message = format!("`{}.{}` has {length} bytes", name.value, on.value);
            let help =
                format!("a host name has at most {LONGEST_HOSTNAME}; shorten one of the two");
            problems.add(SpecError::new(name.span.clone(), message).help(help));
        }
    }
}

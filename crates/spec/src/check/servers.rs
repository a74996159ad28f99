//! The ports of server spaces: on one host, each belongs to one.

use crate::errors::SpecError;
use crate::model::{Hyperspector, Model, Server};
use crate::plan::{Ports, Protocol};
use crate::reader::{At, Problems};

/// Notes ports that another server space, or a VPN, has on the same host.
pub(super) fn ports_are_free(model: &Model, problems: &Problems) {
    let spaces: Vec<_> = model.server_spaces().collect();
    for (index, (server, space)) in spaces.iter().enumerate() {
        for ports in &space.ports {
            for (earlier, other) in &spaces[..index] {
                let Some(taken) = other.ports.iter().find(|p| p.value.meets(ports.value)) else {
                    continue;
                };
                if let Some(host) = common_host(server, earlier) {
                    problems.add(taken_by_server(ports, taken.value, earlier, host));
                }
            }
            for hyperspector in &model.hyperspectors {
                problems.keep(is_no_vpns(ports, server, hyperspector));
            }
        }
    }
}

fn common_host<'a>(one: &'a Server, other: &Server) -> Option<&'a str> {
    one.on.iter().map(|on| on.value.as_str()).find(|host| other.is_on(host))
}

fn taken_by_server(ports: &At<Ports>, taken: Ports, by: &Server, host: &str) -> SpecError {
    let by = &by.name.value;
    let message = if ports.value == taken {
        format!("{taken} on host {host} is server `{by}`'s")
    } else {
        format!("{} on host {host} has ports of server `{by}`, which has {taken}", ports.value)
    };
    SpecError::new(ports.span.clone(), message).help(format!(
        "on one host, a port belongs to one server space: choose another, or take it out of \
         [server.{by}]"
    ))
}

fn is_no_vpns(
    ports: &At<Ports>,
    server: &Server,
    hyperspector: &Hyperspector,
) -> Result<(), SpecError> {
    let port = hyperspector.port.value;
    let listens = Ports { protocol: Protocol::Udp, first: port, last: port };
    let host = hyperspector.hosts().into_iter().find(|host| server.is_on(host));
    let (Some(host), true) = (host, listens.meets(ports.value)) else { return Ok(()) };
    let name = &hyperspector.name.value;
    let message = format!("{listens} on host {host} is the VPN's of HyperSpector `{name}`");
    Err(SpecError::new(ports.span.clone(), message)
        .help(format!("choose another, or give the VPN another: port of [hyperspector.{name}]")))
}

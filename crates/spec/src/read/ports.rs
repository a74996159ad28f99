//! `ports` and `deny`: `tcp/80`, `udp/53`, `tcp/8000-8010`.

use crate::errors::SpecError;
use crate::plan::{Ports, Protocol};
use crate::reader::{At, Table, Value};

const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];

/// Reads a list of ports, in which no two overlap.
pub(super) fn read(
    table: &mut Table<'_>,
    key: &'static str,
    example: &'static str,
) -> Vec<At<Ports>> {
    let ports = table.list(key, example, ports);
    for (index, second) in ports.iter().enumerate() {
        if let Some(first) = ports[..index].iter().find(|first| first.value.meets(second.value)) {
            let message = if first.value == second.value {
                format!("`{key}` has \"{}\" twice", second.value)
            } else {
                format!("`{key}` has ports of \"{}\" in \"{}\" too", second.value, first.value)
            };
            let error = SpecError::new(second.span.clone(), message);
            table.problems().add(error.help("take one out"));
        }
    }
    ports
}

/// `PROTOCOL/PORT` or `PROTOCOL/FIRST-LAST`.
pub(super) fn ports(value: &Value<'_>) -> Result<At<Ports>, SpecError> {
    if let Ok(port) = value.integer(1..=65535) {
        let help = format!("write \"tcp/{port}\" or \"udp/{port}\"");
        return Err(value.must_be("a string").help(help));
    }
    let text = value.string()?;
    let wrong = |problem: &str| value.error(format!("\"{}\" {problem}", text.value));
    let Some((protocol, range)) = text.value.split_once('/') else {
        return Err(without_protocol(value, &text.value));
    };
    if numbers(protocol).is_some() && PROTOCOLS.iter().any(|(known, _)| *known == range) {
        let help = format!("write \"{range}/{protocol}\"");
        return Err(wrong("has the protocol at its end").help(help));
    }
    let Some((_, protocol)) = PROTOCOLS.iter().find(|(known, _)| *known == protocol) else {
        let lower = protocol.to_lowercase();
        return Err(match PROTOCOLS.iter().find(|(known, _)| *known == lower) {
            Some(_) => wrong("is not in small letters").help(format!("write \"{lower}/{range}\"")),
            None => wrong("is of a protocol that cannot be registered")
                .help("\"tcp\" and \"udp\" can; for the two versions of IP alike"),
        });
    };
    let Some((first, last)) = numbers(range) else {
        return Err(wrong("is not a port or a range of ports, which are 1 to 65535"));
    };
    if first == 0 {
        return Err(wrong("has port 0").help(
            "0 stands for any free port; those that a server takes to call others are always open",
        ));
    }
    if last < first {
        return Err(wrong("runs backwards").help(format!(
            "write \"{}/{last}-{first}\"",
            text.value.split('/').next().unwrap_or("")
        )));
    }
    Ok(At::new(Ports { protocol: *protocol, first, last }, text.span))
}

/// As container runtimes have it, or a port alone.
fn without_protocol(value: &Value<'_>, text: &str) -> SpecError {
    if let Some((_, inside)) = text.rsplit_once(':') {
        return value.error(format!("\"{text}\" maps one port to another")).help(format!(
            "a server has the host's own network, where nothing is mapped: write \"tcp/{inside}\""
        ));
    }
    let error = value.error(format!("\"{text}\" does not say which protocol and port"));
    match numbers(text) {
        Some(_) => error.help(format!("write \"tcp/{text}\" or \"udp/{text}\"")),
        None => error,
    }
}

/// A number, or two with `-` between them, as digits alone.
fn numbers(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits)
    };
    match text.split_once('-') {
        Some((first, last)) => Some((number(first)?, number(last)?)),
        None => number(text).map(|port| (port, port)),
    }
}

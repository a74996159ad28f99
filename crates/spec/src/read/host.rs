//! `[host.NAME]`: a machine of the fleet.

use std::net::Ipv6Addr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::errors::SpecError;
use crate::model::{Endpoint, Endpoints, Host};
use crate::reader::{At, Table, Value};

const ENDPOINT: &str = "endpoint = \"192.0.2.11\"";
const KEY: &str = "key.alpha = \"…\", as `hyperspector key alpha` prints it on the host";

pub(super) fn read(name: At<String>, mut table: Table<'_>) -> Host {
    let endpoint = table.value("endpoint", ENDPOINT).map(|v| endpoints(&v, &table));
    let keys = keys(&mut table);
    let header = table.span.clone();
    table.finish();
    Host { name, header, endpoint: endpoint.unwrap_or_default(), keys }
}

fn endpoints<'a>(value: &Value<'a>, table: &Table<'a>) -> Endpoints {
    let problems = table.problems();
    if !value.is_table() {
        return one_or_several(value, table).map_or(Endpoints::Unreadable, Endpoints::All);
    }
    let Some(each) = problems.keep(value.table("this endpoint", problems)) else {
        return Endpoints::Unreadable;
    };
    let read = |(name, value)| Some((name, one_or_several(&value, table)?));
    Endpoints::Each(each.entries(ENDPOINT).into_iter().filter_map(read).collect())
}

/// An endpoint, or a list of them; none where one of them is wrong.
fn one_or_several<'a>(value: &Value<'a>, table: &Table<'a>) -> Option<Vec<At<Endpoint>>> {
    let problems = table.problems();
    if !value.is_list() {
        return Some(vec![problems.keep(endpoint(value))?]);
    }
    let elements = problems.keep(value.elements())?;
    if elements.is_empty() {
        problems.add(value.error(format!("{} is empty", value.name())));
        return None;
    }
    let endpoints: Vec<_> = elements.iter().map(|e| problems.keep(endpoint(e))).collect();
    endpoints.into_iter().collect()
}

/// Public keys, by HyperSpector; one that cannot be read is empty.
fn keys(table: &mut Table<'_>) -> Vec<(At<String>, Vec<At<String>>)> {
    let Some(keys) = table.table("key", KEY) else { return Vec::new() };
    let problems = keys.problems();
    let read = |value: &Value<'_>| {
        let unreadable = At::new(String::new(), value.span.clone());
        problems.keep(key(value)).unwrap_or(unreadable)
    };
    let one_or_two = |(name, value): (_, Value<'_>)| {
        let several = value.is_list().then(|| problems.keep(value.elements())).flatten();
        let keys = match &several {
            Some(elements) => elements.iter().map(read).collect(),
            None => vec![read(&value)],
        };
        if !(1..=2).contains(&keys.len()) {
            let message = format!("{} has {} keys", value.name(), keys.len());
            let help = "a host has one key, or two while it changes them: [\"old\", \"new\"]";
            problems.add(SpecError::new(value.span.clone(), message).help(help));
        }
        (name, keys)
    };
    keys.entries(KEY).into_iter().map(one_or_two).collect()
}

/// 32 bytes that are not all zero, in base64.
fn key(value: &Value<'_>) -> Result<At<String>, SpecError> {
    let key = value.string()?;
    let problem = match STANDARD.decode(&key.value) {
        Err(_) => "is not base64",
        Ok(bytes) if bytes.len() != 32 => "does not hold 32 bytes",
        Ok(bytes) if bytes.iter().all(|byte| *byte == 0) => "is all zero",
        Ok(_) => return Ok(key),
    };
    Err(SpecError::new(key.span, format!("\"{}\" is not a public key: it {problem}", key.value))
        .help("a key is 44 characters; paste the line that `hyperspector key` prints on the host"))
}

/// `name`, `name:port`, `192.0.2.11`, `192.0.2.11:51820`, `[2001:db8::1]` or `[2001:db8::1]:51820`.
fn endpoint(value: &Value<'_>) -> Result<At<Endpoint>, SpecError> {
    let text = value.string()?;
    let wrong = |problem: &str| {
        let message = format!("\"{}\" is not an endpoint: {problem}", text.value);
        value.error(message)
    };
    if text.value.parse::<Ipv6Addr>().is_ok() {
        let help = format!("endpoint = \"[{}]\"", text.value);
        return Err(wrong("an IPv6 address is written in brackets").help(format!("write {help}")));
    }
    let (address, port) = split(&text.value).ok_or_else(|| wrong("its brackets do not match"))?;
    if !is_reachable_name(address) || text.value.contains('/') {
        return Err(wrong("it is neither a host name nor an address"));
    }
    let port = match port {
        None => None,
        Some(port) => match port.parse::<u16>() {
            Ok(port) if port != 0 => Some(port),
            _ => return Err(wrong(&format!("the port \"{port}\" is not 1 to 65535"))),
        },
    };
    Ok(At::new(Endpoint { address: address.to_owned(), port }, text.span))
}

/// The address without brackets, and the port.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']')?;
        address.parse::<Ipv6Addr>().ok()?;
        return match after {
            "" => Some((address, None)),
            _ => after.strip_prefix(':').map(|port| (address, Some(port))),
        };
    }
    Some(text.split_once(':').map_or((text, None), |(address, port)| (address, Some(port))))
}

/// An IP address, or a DNS name of letters, digits, `-` and `.` (RFC 1123, section 2.1).
fn is_reachable_name(text: &str) -> bool {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last label is a number is a broken address.
    let last_is_name =
        text.rsplit('.').next().is_some_and(|l| !l.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= 253 && last_is_name && text.split('.').all(label)
}

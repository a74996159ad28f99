//! `[hyperspector.NAME.portspace.NAME]`: an isolated environment that runs one IDS.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::errors::SpecError;
use crate::model::{Addresses, Portspace};
use crate::reader::{At, Problems, Table, Value};

use super::space::{self, Of};
use super::{ON, watch};

const ADDRESS: &str = "address.web1 = \"10.66.0.7\"";
const RATE: &str = "rate = \"10Mbit/s\"";

/// What a portspace sends over the VPN at most where nothing is said, in bits per second: plenty for
/// logs and alerts, and too little to drown the VPN of a whole host.
const DEFAULT_RATE: u64 = 100_000_000;

/// Less would hold single packets for too long; more than 34 Gbit/s cannot be told to every kernel.
const RATES: RangeInclusive<u64> = 64_000..=30_000_000_000;

pub(super) fn read(name: At<String>, mut table: Table<'_>) -> Portspace {
    let problems = table.problems();
    if name.value == "localhost" {
        let error = SpecError::new(name.span.clone(), "a portspace cannot be called `localhost`");
        problems.add(error.help("that name stands for the portspace itself; choose another"));
    }
    for key in ["ports", "deny"] {
        let help = "take it out: which ports of it others may reach is said by `allow` of its \
                    HyperSpector";
        table.refuse(key, format!("a portspace has no `{key}`"), help);
    }
    table.require("on", ON);
    table.require("command", Of::Portspace.command());
    let on = table.names("on", ON);
    let space = space::read(Of::Portspace, &mut table, &name.span);
    let address = table.value("address", ADDRESS).map(|value| addresses(&value, problems));
    let rate = table.get("rate", RATE, rate).unwrap_or(Some(DEFAULT_RATE));
    let watch = watch::read(&mut table, &space);
    table.finish();
    Portspace { on, space, address: address.unwrap_or_default(), rate, watch, name }
}

/// Bits per second, or none where there is to be no limit.
fn rate(value: &Value<'_>) -> Result<Option<u64>, SpecError> {
    match value.string()?.value.as_str() {
        "none" => Ok(None),
        _ => value.rate(RATES).map(Some),
    }
}

fn addresses<'a>(value: &Value<'a>, problems: &'a Problems) -> Addresses {
    if !value.is_table() {
        return problems.keep(address(value)).map_or(Addresses::None, Addresses::One);
    }
    let Some(each) = problems.keep(value.table("this address", problems)) else {
        return Addresses::None;
    };
    let read = |(host, value)| Some((host, problems.keep(address(&value))?));
    Addresses::Each(each.entries(ADDRESS).into_iter().filter_map(read).collect())
}

fn address(value: &Value<'_>) -> Result<At<Ipv4Addr>, SpecError> {
    let text = value.string()?;
    let parsed = text.value.parse();
    parsed
        .map(|address| At::new(address, text.span))
        .map_err(|_| value.error(format!("\"{}\" is not an IPv4 address", text.value)))
}

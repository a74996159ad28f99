//! `[hyperspector.NAME.portspace.NAME]`: an isolated environment that runs one IDS.

use std::net::Ipv4Addr;

use crate::errors::SpecError;
use crate::model::{Addresses, Portspace};
use crate::reader::{At, Problems, Table, Value};

use super::space::{self, Of};
use super::{ON, watch};

const ADDRESS: &str = "address.web1 = \"10.66.0.7\"";

pub(super) fn read(name: At<String>, mut table: Table<'_>) -> Portspace {
    let problems = table.problems();
    if name.value == "localhost" {
        let error = SpecError::new(name.span.clone(), "a portspace cannot be called `localhost`");
        problems.add(error.help("that name stands for the portspace itself; choose another"));
    }
    for key in ["ports", "deny"] {
        let help = "take it out: the portspaces of its HyperSpector reach it at its address, on \
                    every port, and nobody else does";
        table.refuse(key, format!("a portspace has no `{key}`"), help);
    }
    table.require("on", ON);
    table.require("command", Of::Portspace.command());
    let on = table.names("on", ON);
    let space = space::read(Of::Portspace, &mut table, &name.span);
    let address = table.value("address", ADDRESS).map(|value| addresses(&value, problems));
    let watch = watch::read(&mut table, &space);
    table.finish();
    Portspace { on, space, address: address.unwrap_or_default(), watch, name }
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

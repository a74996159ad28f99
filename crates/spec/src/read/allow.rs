//! `allow` and `collectors`: who may talk to whom inside a HyperSpector.

use crate::errors::SpecError;
use crate::model::{Allow, AllowRule};
use crate::plan::Open;
use crate::reader::{At, Problems, Table, Value};

use super::ports;

const ALLOW: &str = "allow = [{ from = \"nids\", to = \"collector\", ports = [\"tcp/6514\"] }]";
const FROM: &str = "from = \"nids\"";
const TO: &str = "to = \"collector\"";
const PORTS: &str = "ports = [\"tcp/6514\", \"ping\"]";
const PRIORITY: &str = "priority = true";
const PING: &str = "ping";

/// Reads `allow` of a HyperSpector; without it nothing but its collectors can be reached.
pub(super) fn read(table: &mut Table<'_>) -> Allow {
    let problems = table.problems();
    let Some(value) = table.value("allow", ALLOW) else { return Allow::default() };
    if value.is_string() {
        return problems.keep(everything(&value)).unwrap_or_default();
    }
    let rules = problems.keep(value.elements()).unwrap_or_default();
    Allow::Rules(rules.iter().filter_map(|value| problems.keep(rule(value, problems))?).collect())
}

fn everything(value: &Value<'_>) -> Result<Allow, SpecError> {
    value.one_of(&[("all", ())]).map(|()| Allow::All(value.span.clone())).map_err(|error| {
        error.help(format!("\"all\" opens everything to everybody; else a list: {ALLOW}"))
    })
}

fn rule<'a>(value: &Value<'a>, problems: &'a Problems) -> Result<Option<AllowRule>, SpecError> {
    let mut table = value.table("this rule", problems)?;
    table.require("to", TO);
    let from_is_there = table.has("from");
    let from = ends(&mut table, "from", FROM);
    let to = ends(&mut table, "to", TO);
    let ports_are_there = table.has("ports");
    let open = table.list("ports", PORTS, open);
    let is_readable = !ports_are_there || !open.is_empty();
    if ports_are_there
        && open.is_empty()
        && table.value("ports", PORTS).is_some_and(|v| v.elements().is_ok_and(|e| e.is_empty()))
    {
        problems.add(value.error("this rule opens no port").help("leave `ports` out to open all"));
    }
    let priority = table.get("priority", PRIORITY, Value::boolean);
    table.finish();
    Ok(is_readable.then(|| AllowRule {
        from: from_is_there.then_some(from),
        to,
        open: if ports_are_there { open } else { vec![Open::Everything] },
        priority: priority.unwrap_or_default(),
    }))
}

/// One end, or a list of them: `nids`, or `nids.web1` on one host alone.
fn ends(table: &mut Table<'_>, key: &'static str, example: &'static str) -> Vec<At<String>> {
    let problems = table.problems();
    match table.value(key, example) {
        Some(value) if value.is_string() => problems.keep(value.string()).into_iter().collect(),
        Some(_) => table.names(key, example),
        None => Vec::new(),
    }
}

fn open(value: &Value<'_>) -> Result<Open, SpecError> {
    if value.string().is_ok_and(|text| text.value == PING) {
        return Ok(Open::Ping);
    }
    ports::ports(value).map(|ports| Open::Ports(ports.value))
}

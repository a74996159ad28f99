//! What our own processes weigh: shares of pages that others use too (PSS), and private pages.

use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{Lab, output};
use crate::product::{HOST, Product};
use crate::report::Row;
use crate::start::{ensure_running, portspace, watching_packets};

/// How many portspaces run at once.
const PORTSPACES: usize = 4;

/// A HyperSpector with another host, so that there is a VPN.
const HEAD: &str = "\
[hyperspector.bench]
network = \"10.66.0.0/24\"
vpn = \"embedded\"

[host.there]
endpoint = \"192.0.2.12\"
key.bench = \"RogJ3EOkXKSl24sj60B+t+6mJwPToKDIPupqd2yt8AM=\"
";

pub fn rows(lab: &Lab) -> Result<Vec<Row>> {
    let product = Product::new(&lab.host)?;
    let lines = output(&mut product.command(&["key", "bench"])?)?;
    let key = lines.lines().find(|line| line.trim_start().starts_with("key.")).context("no key")?;
    let mut spec = format!("{HEAD}\n[host.{HOST}]\nendpoint = \"192.0.2.11\"\n{key}\n\n");
    for number in 0..PORTSPACES {
        let name = format!("p{number}");
        spec += &portspace(&name, "[\"sleep\", \"infinity\"]", &watching_packets());
    }
    spec += &portspace("far", "[\"true\"]", "").replace(HOST, "there");
    product.write(&spec)?;
    output(&mut product.up()?)?;
    ensure_running(&product)?;
    weigh(&product.status()?)
}

fn weigh(status: &Value) -> Result<Vec<Row>> {
    let portspaces =
        status["hyperspectors"][0]["portspaces"].as_array().context("no portspaces")?;
    let pids = |field: &str| -> Vec<u64> {
        portspaces.iter().filter_map(|one| one.pointer(field)?.as_u64()).collect()
    };
    let of_agent = |path: &str| status.pointer(path).and_then(Value::as_u64).into_iter().collect();
    let kinds: [(&str, Vec<u64>); 5] = [
        ("init, for each portspace", pids("/init_pid")),
        ("broker, for each with packets", pids("/windows/broker_pid")),
        ("guard, one", of_agent("/guard/pid")),
        ("vpn, for each HyperSpector", of_agent("/hyperspectors/0/vpn/pid")),
        ("agent, one", of_agent("/agent/pid")),
    ];
    let mut rows = Vec::new();
    for (name, pids) in kinds {
        if pids.is_empty() {
            println!("{name}: no such process; not measured");
            continue;
        }
        let weights = pids.iter().map(|pid| weight(*pid)).collect::<Result<Vec<_>>>()?;
        let (shares, private): (Vec<_>, Vec<_>) = weights.into_iter().unzip();
        rows.push(Row::alone(format!("{name}: PSS"), "KiB", &shares));
        rows.push(Row::alone(format!("{name}: private"), "KiB", &private));
    }
    Ok(rows)
}

/// PSS and private pages, in KiB (proc_pid_smaps(5)).
fn weight(pid: u64) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
    };
    Ok((field("Pss"), field("Private_Clean") + field("Private_Dirty")))
}

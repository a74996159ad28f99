//! The embedded VPN beside the cable alone and other WireGuards that are processes too.
//!
//! ```text
//!   host: hsb0 192.0.2.1 ──── outside: hsb1 192.0.2.2
//!     each side: a tunnel between them, 10.66.N.1 ── 10.66.N.2
//! ```
//!
//! All of them stand ready at once, and are measured in turns. What a side has no program for is
//! said, and left out.

pub mod flood;
pub mod measure;
pub mod scale;
mod sides;
mod strangers;

use anyhow::{Context, Result};

use crate::interrupt;
use crate::lab::Lab;
use crate::report::Row;
use measure::{Figures, Servers};
use sides::Side;
use strangers::Kind;

/// The ends of the cable.
pub const ENDS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// Turns that count; one more goes before them.
const TURNS: usize = 7;
/// The rate at which nothing may be lost, in Mbit/s: every side's saturation is above it.
const CALM: u32 = 200;
/// Datagrams of strangers in a second.
const FLOOD: u32 = 50_000;
/// Turns of each flood.
const FLOOD_TURNS: usize = 3;

pub fn run() -> Result<Vec<Row>> {
    let lab = cable()?;
    let sides = sides::all(&lab)?;
    let _servers =
        sides.iter().map(|side| Servers::start(&lab, side)).collect::<Result<Vec<_>>>()?;
    let mut found: Vec<Vec<Figures>> = sides.iter().map(|_| Vec::new()).collect();
    for turn in 0..=TURNS {
        for (number, side) in sides.iter().enumerate() {
            interrupt::check()?;
            // Each turn begins with another side.
            let number = (number + turn) % sides.len();
            let side = sides.get(number).unwrap_or(side);
            match measure::all(&lab, side).with_context(|| format!("measure {}", side.name)) {
                Ok(figures) if turn > 0 => found[number].push(figures),
                Ok(_) => {}
                // Another's failure is told, and its rows are left out.
                Err(error) if side.key.is_none() && side.port > 0 => println!("{error:#}"),
                Err(error) => return Err(error),
            }
        }
    }
    let ours = sides.iter().position(|side| side.name == sides::OURS).context("our side")?;
    Ok(rows(&sides, &found, ours))
}

/// The lab with addresses on its cable.
fn cable() -> Result<Lab> {
    let lab = Lab::new()?;
    lab.connect(ENDS[0], ENDS[1])?;
    Ok(lab)
}

/// Ours beside each of the others.
fn rows(sides: &[Side<'_>], found: &[Vec<Figures>], ours: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, unit, field) in measure::FIELDS {
        let of = |side: usize| found[side].iter().map(field).collect::<Vec<f64>>();
        let whole = |side: usize| side != ours && found[side].len() == found[ours].len();
        for other in (0..sides.len()).filter(|&side| whole(side)) {
            let name = sides[other].name;
            let row = Row::pair(format!("{what}: ours beside {name}"), unit, &of(other), &of(ours));
            rows.push(with_goal(row, what, name));
        }
    }
    // Where the machine is busy, the reader of iperf3 loses some on the cable alone too.
    let lost = |side: usize| found[side].iter().map(|turn| turn.lost).collect::<Vec<f64>>();
    let case = format!("UDP at {CALM} Mbit/s: lost by ours beside the cable");
    rows.push(Row::amounts(case, "%", &lost(0), &lost(ours)).no_more(100.0));
    rows
}

fn with_goal(row: Row, what: &str, other: &str) -> Row {
    let tcp = what.starts_with("TCP");
    match other {
        sides::CABLE if tcp => row.ratio_at_least(0.25),
        sides::CABLE if what == measure::TRIP => {
            let most = row.base.unwrap_or(0.0) + 100.0;
            row.at_most(most)
        }
        sides::BORINGTUN if tcp => row.ratio_at_least(5.0),
        sides::CABLE => row,
        _ if tcp => row.ratio_at_least(1.5),
        _ => row,
    }
}

/// What a tunnel carries while somebody floods its port, and while the same flood goes elsewhere.
pub fn flooded() -> Result<Vec<Row>> {
    let lab = cable()?;
    let side = sides::ours(&lab, 0)?;
    let key = side.key.context("the key of the flooded end")?;
    let _servers = Servers::start(&lab, &side)?;
    let sink = flood::sink(&lab)?;
    // Answers to addresses that are nobody's go out on the cable too.
    lab.host.ip(&["route", "add", flood::STRANGERS, "via", ENDS[1]])?;
    // Whatever is measured first would find it larger.
    measure::tcp(&lab, &side, 1)?;
    let before = side.memory()?;
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        for rate in [FLOOD, 0] {
            // Each time anew: what was captured in another session is nothing to this one.
            let datagrams = kind.make(key, &strangers::capture(&lab, &side)?)?;
            rows.extend(flooded_by(&lab, &side, sink.port, kind, &datagrams, rate)?);
        }
    }
    let name = "resident memory of the flooded process: after beside before";
    rows.push(Row::amounts(name, "MiB", &[before], &[side.memory()?]).at_most(64.0));
    Ok(rows)
}

/// The rows for one kind at one rate, which is all that goes where it is 0.
fn flooded_by(
    lab: &Lab,
    side: &Side<'_>,
    elsewhere: u16,
    kind: Kind,
    datagrams: &[Vec<u8>],
    rate: u32,
) -> Result<[Row; 2]> {
    let ammunition = flood::Ammunition::new(datagrams)?;
    let tcp = || Ok(measure::tcp(lab, side, 1)?.rate);
    let (mut calm, mut beside, mut under) = (Vec::new(), Vec::new(), Vec::new());
    let mut rates = Vec::new();
    for _ in 0..FLOOD_TURNS {
        interrupt::check()?;
        let none = tcp()?;
        let (there, _) = flood::during(lab, &ammunition, elsewhere, rate, tcp)?;
        let (here, sent) = flood::during(lab, &ammunition, side.port, rate, tcp)?;
        let name = kind.name();
        println!("{sent:.0} {name} in a second: {none:.0}, {there:.0}, {here:.0} Mbit/s");
        calm.push(none);
        beside.push(there);
        under.push(here);
        rates.push(sent / 1000.0);
    }
    rates.sort_unstable_by(f64::total_cmp);
    let sent = rates.get(rates.len() / 2).copied().unwrap_or_default();
    let case = format!("TCP under {sent:.0} thousand {} in a second", kind.name());
    let rows = [
        Row::pair(format!("{case} beside none"), "Mbit/s", &calm, &under),
        Row::pair(format!("{case} beside as many at another port"), "Mbit/s", &beside, &under),
    ];
    // Flooder, both ends and TCP share the machine: at full rate it is what the flood leaves.
    Ok(if rate > 0 { rows.map(|row| row.ratio_at_least(0.8)) } else { rows })
}

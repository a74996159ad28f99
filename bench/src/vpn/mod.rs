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

use anyhow::{Context, Result};

use crate::interrupt;
use crate::lab::Lab;
use crate::report::Row;
use measure::{Figures, Servers};
use sides::Side;

/// The ends of the cable.
pub const ENDS: [&str; 2] = ["192.0.2.1", "192.0.2.2"];
/// Turns that count; one more goes before them.
const TURNS: usize = 7;
/// The rate at which nothing may be lost, in Mbit/s: every side's saturation is above it.
const CALM: u32 = 200;
/// Initiations in a second.
const FLOOD: u32 = 50_000;

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
    let _servers = Servers::start(&lab, &side)?;
    let sink = flood::sink(&lab)?;
    // Answers to addresses that are nobody's go out on the cable too.
    lab.host.ip(&["route", "add", flood::STRANGERS, "via", ENDS[1]])?;
    let (mut calm, mut beside, mut under) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=TURNS {
        interrupt::check()?;
        let none = measure::tcp(&lab, &side, 1)?.rate;
        let (elsewhere, _) =
            flood::during(
                &lab,
                &side,
                sink.port,
                FLOOD,
                || Ok(measure::tcp(&lab, &side, 1)?.rate),
            )?;
        let (here, sent) =
            flood::during(
                &lab,
                &side,
                side.port,
                FLOOD,
                || Ok(measure::tcp(&lab, &side, 1)?.rate),
            )?;
        println!("turn {turn}: {sent:.0} initiations/s came onto the cable");
        if turn > 0 {
            calm.push(none);
            beside.push(elsewhere);
            under.push(here);
        }
    }
    let memory = side.memory()?;
    Ok(vec![
        Row::pair("TCP under a flood of initiations beside without", "Mbit/s", &calm, &under)
            .ratio_at_least(0.8),
        Row::pair("the same beside the flood at another port", "Mbit/s", &beside, &under)
            .ratio_at_least(0.8),
        Row::alone("resident memory of the flooded process", "MiB", &[memory]).at_most(64.0),
    ])
}

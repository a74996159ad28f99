//! Rows: what was measured, as a table for people and as JSON.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// The goal that both sides are the same.
const EQUAL: &str = "equal within the spread";

/// One thing that was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What.
    pub case: String,
    /// The unit of `base` and `here`.
    pub unit: &'static str,
    /// The median without HyperSpector.
    pub base: Option<f64>,
    /// The median with it.
    pub here: f64,
    /// `here` by `base`.
    pub ratio: Option<f64>,
    /// Half the range between the quartiles: of the ratios of the single turns, by their median;
    /// where there is no ratio, of the side that varies more, in its unit.
    pub spread: f64,
    /// What is wanted.
    pub goal: Option<String>,
    /// Whether that is so.
    pub holds: Option<bool>,
}

impl Row {
    /// Something measured in turns on both sides.
    pub fn pair(case: impl Into<String>, unit: &'static str, base: &[f64], here: &[f64]) -> Self {
        let ratios: Vec<f64> = base.iter().zip(here).map(|(base, here)| here / base).collect();
        let (base, here) = (median(base), median(here));
        let ratio = (base != 0.0).then_some(here / base);
        let spread = match ratio {
            Some(_) => half_range(&ratios) / median(&ratios),
            None => 0.0,
        };
        let (case, base) = (case.into(), Some(base));
        Self { case, unit, base, here, ratio, spread, goal: None, holds: None }
    }

    /// Something that is an amount on both sides and may well be 0: compared by eye.
    pub fn amounts(
        case: impl Into<String>,
        unit: &'static str,
        base: &[f64],
        here: &[f64],
    ) -> Self {
        let row = Self { base: Some(median(base)), ..Self::alone(case, unit, here) };
        Self { spread: row.spread.max(half_range(base)), ..row }
    }

    /// Something that is only there with HyperSpector.
    pub fn alone(case: impl Into<String>, unit: &'static str, here: &[f64]) -> Self {
        Self {
            case: case.into(),
            unit,
            base: None,
            here: median(here),
            ratio: None,
            spread: half_range(here),
            goal: None,
            holds: None,
        }
    }

    /// With a goal for `here`.
    pub fn at_most(self, most: f64) -> Self {
        let holds = self.here <= most;
        Self {
            goal: Some(format!("at most {} {}", figure(most), self.unit)),
            holds: Some(holds),
            ..self
        }
    }

    /// With a goal for the ratio.
    pub fn ratio_at_most(self, most: f64) -> Self {
        let holds = self.ratio.is_some_and(|ratio| ratio <= most);
        Self { goal: Some(format!("ratio at most {most}")), holds: Some(holds), ..self }
    }

    /// With a goal for the ratio.
    pub fn ratio_at_least(self, least: f64) -> Self {
        let holds = self.ratio.is_some_and(|ratio| ratio >= least);
        Self { goal: Some(format!("ratio at least {least}")), holds: Some(holds), ..self }
    }

    /// With the goal that both sides are the same, as far as can be told.
    pub fn equal(self) -> Self {
        /// Differences below this are none.
        const LEAST: f64 = 0.005;
        let holds = self.ratio.is_some_and(|ratio| (ratio - 1.0).abs() <= self.spread.max(LEAST));
        Self { goal: Some(EQUAL.into()), holds: Some(holds), ..self }
    }

    /// With the goal that `here` is no more than `base`, but for the spread and one in a thousand
    /// of `whole`.
    pub fn no_more(self, whole: f64) -> Self {
        let most = self.base.unwrap_or(0.0) + self.spread.max(whole / 1000.0);
        let holds = self.here <= most;
        Self { goal: Some("no more than base".into()), holds: Some(holds), ..self }
    }

    /// Whether the difference is smaller than what it varies by.
    fn is_lost_in_spread(&self) -> bool {
        self.ratio.is_some_and(|ratio| (ratio - 1.0).abs() < self.spread)
    }

    fn cells(&self) -> [String; 8] {
        let dash = || "-".to_owned();
        let spread = match self.ratio {
            Some(_) => format!("±{:.1} %", self.spread * 100.0),
            None => format!("±{}", figure(self.spread)),
        };
        let mut verdict = match self.holds {
            Some(true) => "holds".to_owned(),
            Some(false) => "FAILS".to_owned(),
            None => String::new(),
        };
        // A difference is what is looked for, unless the goal is that there is none.
        if self.is_lost_in_spread()
            && !(self.goal.as_deref() == Some(EQUAL) && self.holds == Some(true))
        {
            let comma = if verdict.is_empty() { "" } else { ", " };
            verdict.push_str(&format!("{comma}difference within the spread"));
        }
        [
            self.case.clone(),
            self.unit.to_owned(),
            self.base.map_or_else(dash, figure),
            figure(self.here),
            self.ratio.map_or_else(dash, |ratio| format!("{ratio:.3}")),
            spread,
            self.goal.clone().unwrap_or_else(dash),
            verdict,
        ]
    }
}

/// Measures the base and here, in one order in even turns and in the other in odd ones, so that what
/// changes with time falls on both.
pub fn in_turn<R>(
    turn: usize,
    mut base: impl FnMut() -> Result<R>,
    mut here: impl FnMut() -> Result<R>,
) -> Result<(R, R)> {
    if turn.is_multiple_of(2) {
        let base = base()?;
        return Ok((base, here()?));
    }
    let here = here()?;
    Ok((base()?, here))
}

/// Prints a table.
pub fn print(name: &str, rows: &[Row]) {
    let head = ["case", "unit", "base", "here", "ratio", "spread", "goal", ""].map(str::to_owned);
    let lines: Vec<[String; 8]> = [head].into_iter().chain(rows.iter().map(Row::cells)).collect();
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    println!("\n{name}");
    for line in &lines {
        let cells = line.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            // Numbers are aligned at their ends.
            if (2..=5).contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            }
        });
        println!("  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// Writes the rows to `TARGET/bench/NAME.json`.
pub fn write(target: &Path, name: &str, rows: &[Row]) -> Result<PathBuf> {
    let directory = target.join("bench");
    let path = directory.join(format!("{name}.json"));
    fs::create_dir_all(&directory)
        .and_then(|()| {
            fs::write(&path, serde_json::to_string_pretty(rows).unwrap_or_default() + "\n")
        })
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// A number with the digits that matter.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => grouped(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A whole number with its thousands apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// The middle of some values.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Half the range between the first and the third quartile.
fn half_range(values: &[f64]) -> f64 {
    (quantile(values, 0.75) - quantile(values, 0.25)) / 2.0
}

/// The value below which a part of them is, between two of them where it has to be.
fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = part * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_between_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(half_range(&[1.0, 2.0, 3.0, 4.0, 5.0]), 1.0);
    }

    #[test]
    fn a_difference_smaller_than_its_spread_is_said_to_be() {
        let row = Row::pair("x", "s", &[1.0, 2.0, 3.0], &[1.2, 2.02, 2.4]).ratio_at_most(1.03);
        assert!(row.is_lost_in_spread());
        assert_eq!(row.holds, Some(true));
        let row = Row::pair("x", "s", &[1.0, 1.0, 1.0], &[1.2, 1.2, 1.2]).ratio_at_most(1.03);
        assert!(!row.is_lost_in_spread());
        assert_eq!(row.holds, Some(false));
    }

    #[test]
    fn figures_read_well() {
        assert_eq!(figure(1_234_567.0), "1 234 567");
        assert_eq!(
            [figure(0.0), figure(1.234), figure(56.78), figure(987.6)],
            ["0", "1.23", "56.8", "988"]
        );
    }
}

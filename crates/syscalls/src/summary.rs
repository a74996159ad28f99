//! What calls took, as `strace -c -w` counts it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use crate::decode::Call;

/// How many names are counted; those of calls that no table has are without end.
const NAMES: usize = 2048;

/// Counts of calls by name.
#[derive(Clone, Debug, Default)]
pub struct Summary(HashMap<Cow<'static, str>, Count>);

/// Of one call.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    time: u64,
    calls: u64,
    errors: u64,
}

/// What comes first in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// What took the most time.
    Time,
    /// What was called most often.
    Calls,
    /// What failed most often.
    Errors,
    /// By the alphabet.
    Name,
}

const RULE: &str = "------ ----------- ----------- --------- ---------";

/// How wide the names' column is at least.
const NAME: usize = 16;

impl Summary {
    /// Counts a call that has returned.
    pub fn add(&mut self, call: &Call) {
        if call.is_unreturned() || call.is_birth() {
            return;
        }
        let mut name = call.name();
        if self.0.len() >= NAMES && !self.0.contains_key(&name) {
            name = Cow::Borrowed("others");
        }
        let count = self.0.entry(name).or_default();
        count.time = count.time.saturating_add(call.duration);
        count.calls += 1;
        count.errors += u64::from(call.error().is_some());
    }

    /// Writes the table: what took most comes first.
    pub fn write(&self, text: &mut String) {
        self.write_by(text, Order::Time);
    }

    /// Writes the table in that order.
    pub fn write_by(&self, text: &mut String, order: Order) {
        text.push_str("% time     seconds  usecs/call     calls    errors syscall\n");
        let longest = self.0.keys().map(|name| name.len() + 1).max();
        let rule = format!("{RULE} {}\n", "-".repeat(longest.unwrap_or_default().max(NAME)));
        text.push_str(&rule);
        let mut all: Vec<_> = self.0.iter().collect();
        let key = |count: &Count| match order {
            Order::Time => count.time,
            Order::Calls => count.calls,
            Order::Errors => count.errors,
            Order::Name => 0,
        };
        all.sort_by(|(a, x), (b, y)| key(y).cmp(&key(x)).then_with(|| a.cmp(b)));
        let sum = |of: fn(&Count) -> u64| self.0.values().map(of).fold(0, u64::saturating_add);
        let total = Count {
            time: sum(|count| count.time),
            calls: sum(|count| count.calls),
            errors: sum(|count| count.errors),
        };
        for (name, count) in all {
            row(text, name, count, total.time);
        }
        text.push_str(&rule);
        row(text, "total", &total, total.time);
    }
}

fn row(text: &mut String, name: &str, count: &Count, total: u64) {
    // As parts of ten thousand: two digits behind the point.
    let share = u128::from(count.time) * 10_000 / u128::from(total.max(1));
    let micros = count.time / 1000;
    let each = micros / count.calls.max(1);
    let errors = if count.errors == 0 { String::new() } else { count.errors.to_string() };
    let _ = writeln!(
        text,
        "{:>3}.{:02} {:>4}.{:06} {each:>11} {:>9} {errors:>9} {name}",
        share / 100,
        share % 100,
        micros / 1_000_000,
        micros % 1_000_000,
        count.calls
    );
}

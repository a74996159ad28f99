//! Numbers with units: times (`15min`), sizes (`512MiB`) and rates (`10Mbit/s`).

/// The units of time, in seconds.
const TIMES: [(&str, u64); 4] = [("s", 1), ("min", 60), ("h", 3600), ("d", 86400)];

/// The units of size, in bytes.
const SIZES: [(&str, u64); 4] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// The units of rates, in bits per second.
const RATES: [(&str, u64); 3] =
    [("kbit/s", 1000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)];

/// Why a number with a unit could not be read, and what would be right.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnitError {
    /// What is wrong, to follow the name of the key.
    pub(crate) message: String,
    /// What would be right.
    pub(crate) help: String,
}

/// Reads a time, as seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, UnitError> {
    with_unit(text, &TIMES)
}

/// Reads a size, as bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, UnitError> {
    with_unit(text, &SIZES)
}

/// Reads a rate, as bits per second.
pub(crate) fn rate(text: &str) -> Result<u64, UnitError> {
    with_unit(text, &RATES)
}

/// Writes a rate in its largest whole unit, as the spec would have it.
pub(crate) fn write_rate(rate: u64) -> String {
    let whole = RATES.iter().rev().find(|(_, factor)| rate.is_multiple_of(*factor));
    whole.map_or(format!("{rate} bit/s"), |(unit, factor)| format!("{}{unit}", rate / factor))
}

/// Writes a size in its largest whole unit, as the spec would have it.
pub(crate) fn write_bytes(bytes: u64) -> String {
    let whole = SIZES.iter().rev().find(|(_, factor)| bytes.is_multiple_of(*factor));
    whole.map_or(format!("{bytes} bytes"), |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// Writes a time in its largest whole unit, as the spec would have it.
pub(crate) fn write_seconds(seconds: u64) -> String {
    let fits = |factor: u64| seconds.is_multiple_of(factor) && seconds >= factor;
    let whole = TIMES.iter().rev().find(|(_, factor)| fits(*factor));
    whole.map_or("0s".to_owned(), |(unit, factor)| format!("{}{unit}", seconds / factor))
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Result<u64, UnitError> {
    let names: Vec<_> = units.iter().map(|(name, _)| *name).collect();
    let known = format!("units are {}", names.join(", "));
    let wrong = |message: String, help: String| Err(UnitError { message, help });

    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    if number.is_empty() || unit.starts_with(['.', ',', '_']) {
        let help = format!("write a whole number and a unit without a space between; {known}");
        return wrong(format!("\"{text}\" does not begin with a whole number and a unit"), help);
    }
    if unit.is_empty() {
        let help = format!("write \"{number}{}\", for example; {known}", names[0]);
        return wrong(format!("\"{text}\" has no unit"), help);
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let help = match meant(unit.trim(), &names) {
            Some(name) => format!("did you mean \"{number}{name}\"? {known}"),
            None => known,
        };
        return wrong(format!("\"{text}\" has the unknown unit \"{unit}\""), help);
    };
    match number.parse::<u64>().ok().and_then(|number| number.checked_mul(*factor)) {
        Some(value) => Ok(value),
        None => wrong(format!("\"{text}\" is too large"), "write a smaller number".to_owned()),
    }
}

/// The unit that was meant by another spelling of it: `m`, `sec`, `MB`, `GIB`.
fn meant<'a>(unit: &str, known: &[&'a str]) -> Option<&'a str> {
    let letter = unit.chars().next()?.to_ascii_lowercase();
    let spelt = |name: &&&str| name.chars().next().is_some_and(|c| c.eq_ignore_ascii_case(&letter));
    if unit == "ms" { None } else { known.iter().find(spelt).copied() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read() {
        assert_eq!(seconds("15min"), Ok(900));
        assert_eq!(seconds("0s"), Ok(0));
        assert_eq!(seconds("2h"), Ok(7200));
        assert_eq!(seconds("1d"), Ok(86400));
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1TiB"), Ok(1 << 40));
    }

    #[test]
    fn what_is_wrong_is_said_exactly() {
        let cases = [
            ("15", "\"15\" has no unit", "write \"15s\", for example; units are s, min, h, d"),
            (
                "15m",
                "\"15m\" has the unknown unit \"m\"",
                "did you mean \"15min\"? units are s, min, h, d",
            ),
            (
                "15 min",
                "\"15 min\" has the unknown unit \" min\"",
                "did you mean \"15min\"? units are s, min, h, d",
            ),
            ("15ms", "\"15ms\" has the unknown unit \"ms\"", "units are s, min, h, d"),
            (
                "1.5h",
                "\"1.5h\" does not begin with a whole number and a unit",
                "write a whole number and a unit without a space between; units are s, min, h, d",
            ),
            (
                "-1s",
                "\"-1s\" does not begin with a whole number and a unit",
                "write a whole number and a unit without a space between; units are s, min, h, d",
            ),
            ("99999999999999999d", "\"99999999999999999d\" is too large", "write a smaller number"),
        ];
        for (text, message, help) in cases {
            let error = seconds(text).unwrap_err();
            assert_eq!((error.message.as_str(), error.help.as_str()), (message, help));
        }
        let help = bytes("512MB").unwrap_err().help;
        assert_eq!(help, "did you mean \"512MiB\"? units are KiB, MiB, GiB, TiB");
    }

    #[test]
    fn values_are_written_as_they_are_read() {
        assert_eq!(write_rate(10_000_000), "10Mbit/s");
        assert_eq!(rate("1500kbit/s"), Ok(1_500_000));
        let help = rate("10mbit").unwrap_err().help;
        assert!(help.starts_with("did you mean \"10Mbit/s\"?"), "{help}");
        assert_eq!(write_bytes(1536 << 20), "1536MiB");
        assert_eq!(write_bytes(1 << 30), "1GiB");
        assert_eq!(write_seconds(0), "0s");
        assert_eq!(write_seconds(900), "15min");
        assert_eq!(write_seconds(65535), "65535s");
    }
}

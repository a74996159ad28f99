//! Calls as text.

pub mod audit;
mod descriptor;
pub mod json;
pub mod quote;
pub mod strace;

use crate::value::Value;

/// A value as strace(1) writes it, without what descriptors stand for.
pub(crate) fn plain(value: &Value<'_>) -> String {
    let mut text = String::new();
    strace::write_value(
        &mut text,
        value,
        &strace::Style { files: strace::Files::None, ..Default::default() },
    );
    text
}

/// A moment as strace(1) writes it in a note: UTC, with a part of so many digits where there is any.
pub(crate) fn date(seconds: i64, part: i64, digits: usize) -> Option<String> {
    if seconds == 0 && part == 0 || !(0..=999_999_999).contains(&part) {
        return None;
    }
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let part = if part == 0 { String::new() } else { format!(".{part:0digits$}") };
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{part}+0000"))
}

/// Year, month and day of a day since the start of 1970: eras of 400 years, years that begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0, 0, 9), None);
        assert_eq!(date(1_700_000_000, 0, 9).unwrap(), "2023-11-14T22:13:20+0000");
        assert_eq!(date(951_782_400, 5, 9).unwrap(), "2000-02-29T00:00:00.000000005+0000");
        assert_eq!(date(-1, 0, 6).unwrap(), "1969-12-31T23:59:59+0000");
        assert_eq!(date(1, 1_000_000_000, 9), None);
        assert!(date(i64::MAX, 1, 9).is_some());
        assert!(date(i64::MIN, 1, 9).is_some());
    }
}

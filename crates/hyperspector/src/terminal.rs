//! What a person sees: colour only on a terminal, and no byte of an attacker's unescaped.

use std::io::Write;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};

/// Good news.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Bad news.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// Something on its way.
pub const BUSY: Style = AnsiColor::Yellow.on_default();
/// What matters less.
pub const FAINT: Style = Style::new().dimmed();
/// A heading.
pub const STRONG: Style = Style::new().bold();

/// Text in a style; anstream takes the style out where the output is no terminal.
pub fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints a failure with its causes, outermost first.
pub fn error(error: &anyhow::Error) {
    anstream::eprintln!("{} {}", styled(BAD, "hyperspector:"), escape(&format!("{error:#}")));
}

/// Text whose control characters, and characters that reorder a line, are made visible. For
/// everything that a portspace or a server had a hand in.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\t' || (!c.is_control() && !is_reordering(c)) {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
    }
    out
}

/// A value as JSON that is safe to print: what [`escape`] makes visible stands as `\\uXXXX`, which means
/// the same to whoever parses it.
pub fn json(value: &impl serde::Serialize) -> serde_json::Result<String> {
    serde_json::to_string_pretty(value).map(|text| safe_json(&text))
}

/// As [`json`], of what is JSON already.
pub fn safe_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // Outside of strings, JSON has line breaks and ASCII alone.
    for c in text.chars() {
        if c == '\n' || !c.is_control() && !is_reordering(c) {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

/// Characters that change the order or the look of what stands around them (UAX 9).
fn is_reordering(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `SIGPIPE` ends the program, as people expect of `hyperspector logs | head`.
pub fn end_quietly_on_broken_pipe() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string();
        if !text.contains("Broken pipe") {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }));
}

/// Tells what is being done: each step on a line of its own, with the time since the start.
pub struct Progress {
    start: Instant,
    quiet: bool,
}

impl Progress {
    /// Starts now; `quiet` for output that a script reads.
    pub fn new(quiet: bool) -> Self {
        Self { start: Instant::now(), quiet }
    }

    /// Tells a step.
    pub fn step(&self, text: &str) {
        if !self.quiet {
            let time = format!("{:6.2} s", self.start.elapsed().as_secs_f64());
            anstream::eprintln!("{}  {}", styled(FAINT, time), escape(text));
        }
    }
}

/// A duration in the one or two units that matter.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// Bytes in the unit that matters.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_attacker_writes_cannot_steer_the_terminal() {
        assert_eq!(escape("\u{1b}]0;owned\u{7}"), "\\u{1b}]0;owned\\u{7}");
        assert_eq!(escape("abc\u{202e}def\n"), "abc\\u{202e}def\\n");
        assert_eq!(escape("größe\tok"), "größe\tok");
    }

    #[test]
    fn json_steers_no_terminal_and_says_the_same() {
        let text = "\u{1b}[2J\u{9b}2J\u{7f}\u{202e}\n größe";
        let printed = json(&[text]).unwrap();
        assert!(!printed.chars().any(|c| c != '\n' && c.is_control() || is_reordering(c)));
        assert_eq!(serde_json::from_str::<Vec<String>>(&printed).unwrap(), [text]);
    }

    #[test]
    fn quantities_read_well() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(duration(Duration::from_secs(3700)), "1 h 1 min");
    }
}

//! What fails for now, said once: where failing and succeeding alternate, the log would fill up.

use std::time::{Duration, Instant};

/// For how long the same is not said again.
const QUIET: Duration = Duration::from_secs(600);
/// How many different failures are said in that time.
const MOST: usize = 8;

/// Why something fails, and what was said of that lately.
#[derive(Debug, Default)]
pub(crate) struct Complaint {
    now: Option<String>,
    said: Vec<(String, Instant)>,
    /// Failures since then that were not said.
    unsaid: u32,
}

impl Complaint {
    /// Notes how it is now; returns what is to be said of it, which is nothing where it was so before,
    /// or lately.
    pub(crate) fn note(&mut self, failure: Option<String>) -> Option<String> {
        self.note_at(Instant::now(), failure)
    }

    /// Why it fails.
    pub(crate) fn now(&self) -> Option<&str> {
        self.now.as_deref()
    }

    fn note_at(&mut self, now: Instant, failure: Option<String>) -> Option<String> {
        if self.now == failure {
            return None;
        }
        self.now = failure;
        let failure = self.now.as_ref()?;
        self.said.retain(|(_, when)| now.duration_since(*when) < QUIET);
        if self.said.len() >= MOST || self.said.iter().any(|(said, _)| said == failure) {
            self.unsaid = self.unsaid.saturating_add(1);
            return None;
        }
        self.said.push((failure.clone(), now));
        Some(match std::mem::take(&mut self.unsaid) {
            0 => failure.clone(),
            unsaid => format!("{failure} (and {unsaid} failures that were not told)"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_said_once_in_a_while() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let mut said = Vec::new();
        for second in 0..1300 {
            let now = start + Duration::from_secs(second);
            said.extend(complaint.note_at(now, Some("no".into())));
            assert_eq!(complaint.now(), Some("no"));
            assert_eq!(complaint.note_at(now, None), None);
        }
        let again = "no (and 599 failures that were not told)";
        assert_eq!(said, ["no", again, again]);
    }

    #[test]
    fn a_failure_that_stays_is_said_once_and_another_at_once() {
        let (mut complaint, start) = (Complaint::default(), Instant::now());
        let mut say = |second, text: &str| {
            complaint.note_at(start + Duration::from_secs(second), Some(text.into()))
        };
        assert_eq!(say(0, "a").as_deref(), Some("a"));
        assert_eq!(say(1000, "a"), None);
        assert_eq!(say(1001, "b").as_deref(), Some("b"));
        assert_eq!(say(1002, "a").as_deref(), Some("a"));
        assert_eq!(say(1003, "b"), None);
    }

    #[test]
    fn many_different_failures_do_not_fill_the_log() {
        let (mut complaint, now) = (Complaint::default(), Instant::now());
        let said = (0..1000).filter_map(|n| complaint.note_at(now, Some(n.to_string())));
        assert_eq!(said.count(), MOST);
    }
}

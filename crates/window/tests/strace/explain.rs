//! Why two lines may differ.

use crate::lines::Line;
use crate::programs::EXPLAINED;

/// Whether there is a reason for the difference of two lines.
pub fn is_explained(theirs: &Line, ours: &Line) -> bool {
    let is_it =
        |(name, text, _): &(&str, &str, &str)| *name == theirs.name && theirs.call.contains(text);
    theirs == ours || is_same_start(theirs, ours) || EXPLAINED.iter().any(is_it)
}

/// Whether strace saw a call begin, and its thread die. It stops threads before the kernel begins the
/// call: one that dies there has never made it, and we have no record of it.
pub fn is_unfinished(line: &Line) -> bool {
    line.call.ends_with("<unfinished ...>)") && line.result == "?"
}

/// Whether strace's line has only what it knew at the start of a call that never returned.
fn is_same_start(theirs: &Line, ours: &Line) -> bool {
    let start = theirs.call.split("<unfinished ...>").next().unwrap_or_default();
    let start = start.trim_end_matches([' ', ',', ')']);
    is_unfinished(theirs) && ours.result == "?" && ours.call.starts_with(start)
}

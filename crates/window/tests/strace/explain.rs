//! Why two lines may differ.

use crate::lines::Line;
use crate::programs::EXPLAINED;

/// Whether there is a reason for the difference of two lines.
pub fn is_explained(theirs: &Line, ours: &Line) -> bool {
    let is_it =
        |(name, text, _): &(&str, &str, &str)| *name == theirs.name && theirs.call.contains(text);
    theirs == ours || EXPLAINED.iter().any(is_it)
}

//! Which processes of the space are left, by looking at its own `/proc` (proc_pid_stat(5)).

use std::collections::HashMap;
use std::fs;

use super::signals;

/// Whether any process but init is left.
pub(crate) fn any() -> bool {
    parents().keys().any(|pid| *pid != 1)
}

/// The processes that came from the command: all but init, what the operator started, and what runs
/// beside it, of which `is_beside` knows the first of each.
pub(crate) fn of_the_command(is_beside: &dyn Fn(i32) -> bool) -> Vec<i32> {
    let parents = parents();
    let comes_from_others = |pid: i32| {
        let ancestors =
            std::iter::successors(Some(pid), |pid| parents.get(pid).copied().filter(|p| *p > 1));
        ancestors.take(parents.len() + 1).any(is_beside)
    };
    parents.keys().copied().filter(|pid| *pid != 1 && !comes_from_others(*pid)).collect()
}

/// The same, with all processes stopped while it is looked: none can fork its way past. What is found
/// is killed; the others go on.
pub(crate) fn kill_stopped(is_beside: &dyn Fn(i32) -> bool) -> bool {
    signals::send_all(libc::SIGSTOP);
    let left = of_the_command(is_beside);
    left.iter().for_each(|pid| signals::send(*pid, libc::SIGKILL));
    signals::send_all(libc::SIGCONT);
    !left.is_empty()
}

/// Each process with its parent; those that have ended are left out.
fn parents() -> HashMap<i32, i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            Some((pid, parent(&stat)?))
        })
        .collect()
}

/// The parent in a line of `/proc/PID/stat`; `None` for a process that has ended. The name, which
/// the process chooses, is in parentheses and may hold anything.
fn parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z" && state != "X").then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::parent;

    #[test]
    fn a_name_cannot_pass_for_the_fields() {
        assert_eq!(parent("12 (evil) Z 1 (x) S 7 12 12 0"), Some(7));
        assert_eq!(parent("12 (sh) Z 7 12 12 0"), None);
        assert_eq!(parent("nonsense"), None);
    }
}

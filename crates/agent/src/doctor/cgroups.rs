//! Which hierarchies there are, and which limits they enforce.

use std::fs;
use std::path::{Path, PathBuf};

use hyperspector_space::cgroup::{Cgroups, Enforcement, Limit};
use hyperspector_spec::plan::Limits;

use super::{Part, Row, State, Want};

/// The v2 controllers that limits are made of.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];

const HIERARCHY: Want = Want::essential("mount cgroup2 at /sys/fs/cgroup");

const REFUSED: &str = "a portspace with this limit in the spec needs allow-missing = [\"limits\"]";

pub(super) fn rows() -> Vec<Row> {
    let (part, what) = (Part::Portspaces, "cgroups");
    match Cgroups::detect() {
        Ok(cgroups) => vec![layout(&cgroups), limits(&cgroups)],
        Err(error) => vec![Row::wanting(part, what, error.to_string(), HIERARCHY)],
    }
}

fn layout(cgroups: &Cgroups) -> Row {
    let (part, what) = (Part::Portspaces, "cgroups");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let has_v1 = table.contains(" - cgroup ");
    match cgroups.v2_root() {
        Some(root) if has_v1 => {
            let detail = format!("hybrid: v1 controllers, v2 at {}", root.display());
            Row::good(part, what, detail)
        }
        Some(root) => Row::good(part, what, format!("v2 at {}", root.display())),
        None => Row::wanting(
            part,
            what,
            "v1 alone",
            Want::degraded(
                "programs cannot be attached to portspaces: no Unix guard",
                "mount cgroup2 at /sys/fs/cgroup/unified",
            ),
        ),
    }
}

/// Makes a group with every limit, and removes it; where that would change what the root hands
/// down, reads what it could.
fn limits(cgroups: &Cgroups) -> Row {
    let (part, what) = (Part::Portspaces, "limits");
    if let Some(root) = cgroups.v2_root().filter(|root| would_change(root)) {
        let detail = format!("{} (read, not tried)", available(root).join(", "));
        return Row::good(part, what, detail);
    }
    let trial =
        Trial { cgroups, path: format!("hyperspector-doctor-{}", std::process::id()).into() };
    let limits = Limits {
        memory: Some(64 << 20),
        cpu_millis: Some(1000),
        cpu_weight: Some(100),
        io_weight: Some(100),
        pids: Some(64),
    };
    match cgroups.create(&trial.path, &limits) {
        Ok((_, enforced)) => judge(&enforced),
        Err(error) => Row::wanting(part, what, error.to_string(), HIERARCHY),
    }
}

fn judge(enforced: &[Enforcement]) -> Row {
    let names = |missing: bool| -> Vec<&str> {
        let those = enforced.iter().filter(|one| one.missing.is_some() == missing);
        those.map(|one| name(one.limit)).collect()
    };
    let mut row = Row::good(Part::Portspaces, "limits", names(false).join(", "));
    let lost = names(true);
    if !lost.is_empty() {
        let reasons: Vec<_> = enforced.iter().filter_map(|one| one.missing.as_deref()).collect();
        row.state = State::Degraded;
        row.detail = format!("{}; not {}: {}", row.detail, lost.join(", "), reasons.join("; "));
        row.cost = Some(REFUSED.into());
        row.mend = Some(mend(enforced));
    }
    row
}

fn mend(enforced: &[Enforcement]) -> String {
    let lost: Vec<_> = enforced.iter().filter(|one| one.missing.is_some()).collect();
    let mut mends: Vec<_> = lost.iter().map(|one| one_mend(one.limit)).collect();
    mends.dedup();
    mends.join("; ")
}

fn one_mend(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory => "CONFIG_MEMCG=y, cgroup_enable=memory on the kernel's command line",
        Limit::Cpu | Limit::CpuWeight => "CONFIG_CFS_BANDWIDTH=y and the cpu controller",
        Limit::IoWeight => "the bfq scheduler for a disk, or io.cost.qos",
        Limit::Pids => "CONFIG_CGROUP_PIDS=y",
    }
}

fn name(limit: Limit) -> &'static str {
    match limit {
        Limit::Memory => "memory",
        Limit::Cpu => "cpu",
        Limit::CpuWeight => "cpu share",
        Limit::IoWeight => "disk share",
        Limit::Pids => "pids",
    }
}

/// Whether making a group would have the root hand down controllers that it does not now.
fn would_change(root: &Path) -> bool {
    let handed_down = words(&root.join("cgroup.subtree_control"));
    available(root).iter().any(|one| !handed_down.contains(one))
}

fn available(root: &Path) -> Vec<String> {
    let mut all = words(&root.join("cgroup.controllers"));
    all.retain(|one| CONTROLLERS.contains(&one.as_str()));
    all
}

fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// A group that is removed again.
struct Trial<'a> {
    cgroups: &'a Cgroups,
    path: PathBuf,
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        // It has no processes, so nothing can hold it.
        let _ = self.cgroups.remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_missing_degrades_and_says_why() {
        let enforced = [
            Enforcement { limit: Limit::Memory, missing: None },
            Enforcement { limit: Limit::IoWeight, missing: Some("no bfq".into()) },
        ];
        let row = judge(&enforced);
        assert_eq!(row.state, State::Degraded);
        assert_eq!(row.detail, "memory; not disk share: no bfq");
        assert!(row.mend.unwrap().contains("bfq"));
    }

    #[test]
    fn only_what_the_root_does_not_hand_down_would_change_it() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("cgroup.controllers"), "cpuset cpu memory\n").unwrap();
        fs::write(root.path().join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        assert!(!would_change(root.path()));
        fs::write(root.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        assert!(would_change(root.path()));
    }
}

//! The kernel's version, what root may do, where core dumps go, who else is here.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::thread::{CapabilitySet, capabilities, capability_is_in_bounding_set};

use super::{Part, Row, State, Want};
use crate::ids::Register;

/// The kernel below which no portspace works: overlays over idmapped layers.
const NEEDED: (u32, u32) = (5, 19);
/// The kernel from which on everything is there: programs on Unix connections.
const WISHED: (u32, u32) = (6, 7);

pub(super) fn rows() -> Vec<Row> {
    vec![kernel(), root(), core_dumps(), agents()]
}

fn kernel() -> Row {
    let names = rustix::system::uname();
    let (release, machine) = (names.release().to_string_lossy(), names.machine().to_string_lossy());
    let detail = format!("Linux {release} on {machine}");
    let essential =
        Want::essential("Linux 5.19 or later on x86-64, 6.7 or later to have everything");
    let older = Want::degraded(
        "parts that came later are missing; they are named below",
        "Linux 6.7 or later",
    );
    match version(&release) {
        _ if machine != "x86_64" => Row::wanting(Part::Machine, "kernel", detail, essential),
        Some(version) if version < NEEDED => {
            Row::wanting(Part::Machine, "kernel", detail, essential)
        }
        Some(version) if version < WISHED => Row::wanting(Part::Machine, "kernel", detail, older),
        _ => Row::good(Part::Machine, "kernel", detail),
    }
}

/// Major and minor version of a release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// What root is needed for: name, whether nothing goes without it, what it is for.
const CAPABILITIES: &[(CapabilitySet, &str, bool, &str)] = &[
    (CapabilitySet::SYS_ADMIN, "sys_admin", true, "namespaces and mounts"),
    (CapabilitySet::NET_ADMIN, "net_admin", true, "links, the transmit guard"),
    (CapabilitySet::SETUID, "setuid", true, "user namespaces, leaving root"),
    (CapabilitySet::SETGID, "setgid", true, "as setuid"),
    (CapabilitySet::SETPCAP, "setpcap", true, "dropping capabilities for good"),
    (CapabilitySet::CHOWN, "chown", true, "layers with a portspace's owners"),
    (CapabilitySet::FOWNER, "fowner", true, "as chown, for modes"),
    (CapabilitySet::DAC_OVERRIDE, "dac_override", true, "layers that belong to a portspace"),
    (CapabilitySet::MKNOD, "mknod", true, "a portspace's devices; deleted files in its layers"),
    (CapabilitySet::KILL, "kill", true, "ending what runs under a portspace's ids"),
    (CapabilitySet::SYS_CHROOT, "sys_chroot", true, "entering mount namespaces"),
    (CapabilitySet::SYS_PTRACE, "sys_ptrace", false, "packet windows: reading a call's arguments"),
    (CapabilitySet::NET_RAW, "net_raw", false, "packet windows: packet sockets"),
    (CapabilitySet::BPF, "bpf", false, "packet windows: the guards' programs"),
    (CapabilitySet::DAC_READ_SEARCH, "dac_read_search", false, "integrity checkers read all files"),
    (
        CapabilitySet::SYS_RESOURCE,
        "sys_resource",
        false,
        "raising limits above those of the caller",
    ),
];

fn root() -> Row {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let has = |one| held.contains(one) && capability_is_in_bounding_set(one).unwrap_or(false);
    let lost: Vec<_> = CAPABILITIES.iter().filter(|(one, ..)| !has(*one)).collect();
    if lost.is_empty() {
        return Row::good(Part::Machine, "root", "with every capability that is of use");
    }
    let is_essential = lost.iter().any(|(_, _, essential, _)| *essential);
    let names: Vec<_> =
        lost.iter().map(|(_, name, ..)| format!("CAP_{}", name.to_uppercase())).collect();
    let uses: Vec<_> = lost.iter().map(|(.., used_for)| *used_for).collect();
    Row {
        part: Part::Machine,
        what: "root",
        state: if is_essential { State::Missing } else { State::Degraded },
        essential: is_essential,
        detail: format!("without {}", names.join(", ")),
        cost: Some(format!("root cannot do here: {}", uses.join("; "))),
        mend: Some("start from the host itself, or give the container the capabilities".into()),
    }
}

fn core_dumps() -> Row {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    match pattern.trim().split_once('|') {
        Some(("", handler)) => {
            let program = handler.split_whitespace().next().unwrap_or(handler);
            let detail = format!("go to {program}, which runs as root; portspaces make none");
            Row::good(Part::Machine, "core dumps", detail)
        }
        _ => Row::good(Part::Machine, "core dumps", "are written to files; portspaces make none"),
    }
}

/// Other agents, as the machine's register and the locks of their run directories have them.
fn agents() -> Row {
    let states = Register::default().agents();
    let mut parts: Vec<String> = running()
        .into_iter()
        .map(|(pid, run)| format!("one runs in {} (pid {pid})", run.display()))
        .collect();
    parts.extend(states.iter().map(|state| format!("state in {}", state.display())));
    let detail = if parts.is_empty() { "none has been here".to_owned() } else { parts.join("; ") };
    Row::good(Part::Machine, "agents", detail)
}

/// The agents that run: process id and run directory.
fn running() -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, run_directory(&fs::read(entry.path().join("cmdline")).ok()?)?))
        })
        .collect();
    found.sort();
    found
}

/// The run directory of an agent, from its command line as `up` makes it.
fn run_directory(command_line: &[u8]) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(command_line);
    let words: Vec<&str> = text.trim_end_matches('\0').split('\0').collect();
    match words.as_slice() {
        [program, "--state-dir", _, "--run-dir", run, "agent"]
            if Path::new(program).file_name()? == "hyperspector" =>
        {
            Some(run.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_versions() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.19-rc3"), Some((5, 19)));
        assert_eq!(version("unknown"), None);
    }

    #[test]
    fn agents_are_known_by_their_command_line() {
        let line = b"/usr/bin/hyperspector\0--state-dir\0/s\0--run-dir\0/r\0agent\0";
        assert_eq!(run_directory(line), Some("/r".into()));
        assert_eq!(run_directory(b"vi\0agent\0"), None);
    }
}

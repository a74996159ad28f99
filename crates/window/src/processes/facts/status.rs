//! The kernel's own texts about a process.

use super::process::Directory;
use super::schema::{Capabilities, Ids};
use super::users::Names;

/// `PF_KTHREAD` (include/linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// In the order of their numbers (include/uapi/linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// The fields of a `/proc/PID/status` (proc_pid_status(5)). Nothing in it can hold a line of the
/// process's making: the kernel escapes its name.
pub(super) struct Status(String);

impl Status {
    pub(super) fn of(directory: &Directory) -> Option<Self> {
        directory.text("status").map(Self)
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'));
        self.0.lines().find(is_it)?.split_once(':').map(|(_, value)| value.trim())
    }

    pub(super) fn numbers(&self, name: &str) -> Vec<u32> {
        let words = self.field(name).unwrap_or_default().split_ascii_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    }

    /// Its numbers in its PID namespaces, the host's first.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.numbers("NSpid")
    }

    pub(super) fn parent(&self) -> u32 {
        self.numbers("PPid").first().copied().unwrap_or(0)
    }

    pub(super) fn ids(&self, name: &str, names: &Names) -> Ids {
        let all = self.numbers(name);
        let id = |at: usize| all.get(at).map(|id| names.id(*id)).unwrap_or_default();
        Ids { real: id(0), effective: id(1), saved: id(2), file: id(3) }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        let set = |name| self.field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let names = |name| capability_names(set(name).unwrap_or(0));
        Capabilities {
            effective: names("CapEff"),
            permitted: names("CapPrm"),
            inheritable: names("CapInh"),
            ambient: names("CapAmb"),
            bounding: format!("{:016x}", set("CapBnd").unwrap_or(0)),
        }
    }
}

fn capability_names(set: u64) -> Vec<&'static str> {
    let is_set = |(bit, _): &(usize, _)| set >> bit & 1 == 1;
    CAPABILITIES.iter().enumerate().filter(is_set).map(|(_, name)| *name).collect()
}

/// Fields of a `/proc/PID/stat` (proc_pid_stat(5)).
pub(super) struct Stat {
    pub(super) state: &'static str,
    flags: u64,
    pub(super) start: u64,
}

impl Stat {
    pub(super) fn parse(text: &str) -> Option<Self> {
        // The name, in brackets, may hold anything.
        let (_, rest) = text.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let state = match *fields.first()? {
            "Z" | "X" => "zombie",
            "T" | "t" => "stopped",
            _ => "running",
        };
        Some(Self {
            state,
            flags: fields.get(6)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether it is a thread of the kernel.
    pub(super) fn is_kernel(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }
}

/// Clock ticks for each second, in all that the kernel tells programs (`USER_HZ`, time(7)).
pub(super) const TICKS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_brackets_forges_nothing() {
        let text = "7 (a) Z 1 (b) S 1 7 7 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 4321 0 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.flags, stat.start), ("running", 0x40_0100, 4321));
        assert!(Stat::parse("7 (a").is_none() && Stat::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn capabilities_have_their_names() {
        assert_eq!(capability_names(0), [""; 0]);
        assert_eq!(
            capability_names(1 << 12 | 1 << 21 | 1 << 40),
            ["net_admin", "sys_admin", "checkpoint_restore"]
        );
        assert_eq!(capability_names(u64::MAX).len(), 41);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = Status("Name:\tx\nPPid:\t12\nNSpid:\t40\t2\nUid:\t0\t1\t2\t3\nSeccomp_filters:\t1\nSeccomp:\t2\n".into());
        assert_eq!((status.parent(), status.pids()), (12, vec![40, 2]));
        assert_eq!(status.field("Seccomp"), Some("2"));
        assert_eq!(status.field("Pid"), None);
    }
}

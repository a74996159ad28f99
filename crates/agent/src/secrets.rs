//! The secrets that this host shares with others beside their keys. Where one was once used, no session
//! is agreed without it until the operator says so: a file that is gone cuts the other host off.

use std::collections::{BTreeMap, BTreeSet};

use hyperspector_spec::plan::PeerPlan;
use hyperspector_vpn::preshared::PresharedKey;

use crate::error::{Doing, Error, on};
use crate::files;
use crate::layout::Layout;

/// What a file holds in place of a secret when none is wanted any more.
const NONE: &str = "none";

/// The secrets of one VPN, by host.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Secrets {
    used: BTreeMap<String, PresharedKey>,
    /// Whom there should be one with and is none, and why.
    lacking: BTreeMap<String, String>,
}

impl Secrets {
    /// Reads those of `peers`.
    pub(crate) fn read(layout: &Layout, name: &str, peers: &[PeerPlan]) -> Self {
        let before: BTreeSet<String> = files::load(&layout.shared(name)).unwrap_or_default();
        let mut secrets = Self::default();
        for host in peers.iter().map(|peer| &peer.host) {
            let path = layout.preshared(name, host);
            let why = match PresharedKey::load(&path) {
                Ok(Some(secret)) => {
                    secrets.used.insert(host.clone(), secret);
                    continue;
                }
                Ok(None) if !before.contains(host) => continue,
                Err(_) if says_none(&path) => continue,
                Ok(None) => format!(
                    "{} is gone; put it back, or write `{NONE}` into it to go without",
                    path.display()
                ),
                Err(error) => error.to_string(),
            };
            secrets.lacking.insert(host.clone(), why);
        }
        secrets
    }

    /// Writes down with whom there is one, before it is used.
    pub(crate) fn keep(&self, layout: &Layout, name: &str) -> Result<(), Error> {
        let path = layout.shared(name);
        let hosts: BTreeSet<&String> = self.used.keys().chain(self.lacking.keys()).collect();
        if hosts.is_empty() {
            return files::remove(&path).doing(on("remove", &path));
        }
        files::save(&path, &hosts).doing(on("write", &path))
    }

    /// The secret shared with a host.
    pub(crate) fn with(&self, host: &str) -> Option<PresharedKey> {
        self.used.get(host).cloned()
    }

    /// Whether a host must not be talked with.
    pub(crate) fn cuts_off(&self, host: &str) -> bool {
        self.lacking.contains_key(host)
    }

    /// Who is cut off and why, in words.
    pub(crate) fn trouble(&self) -> Option<String> {
        let all = self.lacking.iter();
        let all: Vec<_> = all
            .map(|(host, why)| format!("{host} is cut off: the secret shared with it: {why}"))
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// Whether the file, which must be root's alone, says that there is to be no secret.
fn says_none(path: &std::path::Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let is_own = |found: std::fs::Metadata| found.is_file() && found.uid() == 0;
    std::fs::symlink_metadata(path).is_ok_and(is_own)
        && std::fs::read_to_string(path).is_ok_and(|text| text.trim() == NONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn peer(host: &str) -> PeerPlan {
        PeerPlan {
            host: host.into(),
            public_key: String::new(),
            next_key: None,
            endpoints: Vec::new(),
            allowed: Vec::new(),
            keepalive: None,
        }
    }

    #[test]
    fn a_secret_that_was_used_is_needed_until_none_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let layout =
            Layout::prepare(&folder.path().join("state"), &folder.path().join("run")).unwrap();
        let path = layout.preshared("a", "web2");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let peers = [peer("web2"), peer("web3")];
        let read = || {
            let secrets = Secrets::read(&layout, "a", &peers);
            secrets.keep(&layout, "a").unwrap();
            (secrets.with("web2").is_some(), secrets.cuts_off("web2"), secrets.trouble())
        };
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let secret = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n";
        assert_eq!(read(), (false, false, None));
        write(secret, 0o600);
        assert_eq!(read(), (true, false, None));
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let (used, cut_off, trouble) = read();
            assert!(!used && cut_off && trouble.unwrap().contains("is gone; put it back"));
        }
        write(secret, 0o644);
        assert!(read().2.unwrap().contains("chmod 600"));
        write("garbage", 0o600);
        assert!(read().2.unwrap().contains("not a key"));
        write("none\n", 0o600);
        assert_eq!(read(), (false, false, None));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read(), (false, false, None));
    }
}

//! What a portspace over the base system does not get to see of it unless it asks: secrets, each
//! with the reason.

use std::path::PathBuf;

use crate::plan::Root;

/// Paths that are hidden from a portspace whose root is the base system, and why.
pub const BASE_MASK: &[(&str, &str)] = &[
    ("/etc/shadow", "password hashes"),
    ("/etc/shadow-", "password hashes: the backup that shadow(5) tools keep"),
    ("/etc/gshadow", "group password hashes"),
    ("/etc/gshadow-", "group password hashes: the backup"),
    ("/etc/security/opasswd", "hashes of former passwords (pam_unix, pam_pwhistory)"),
    ("/etc/ssh/ssh_host_rsa_key", "who has it can pose as this host"),
    ("/etc/ssh/ssh_host_ecdsa_key", "who has it can pose as this host"),
    ("/etc/ssh/ssh_host_ed25519_key", "who has it can pose as this host"),
    ("/etc/ssh/ssh_host_dsa_key", "who has it can pose as this host: old installations"),
    ("/etc/ssl/private", "private keys of TLS servers (Debian)"),
    ("/etc/pki/tls/private", "private keys of TLS servers (Fedora)"),
    ("/etc/letsencrypt", "private keys of TLS servers and the account with the authority"),
    ("/etc/wireguard", "private keys of VPNs"),
    ("/etc/ipsec.secrets", "private keys and passwords of VPNs"),
    ("/etc/ipsec.d/private", "private keys of VPNs"),
    ("/etc/swanctl/private", "private keys of VPNs"),
    ("/etc/openvpn", "private keys of VPNs"),
    ("/etc/krb5.keytab", "the host's Kerberos keys"),
    ("/etc/NetworkManager/system-connections", "passwords of wireless networks and VPNs"),
    ("/etc/wpa_supplicant", "passwords of wireless networks"),
    ("/etc/netplan", "passwords of wireless networks"),
    ("/etc/credstore", "credentials of services (systemd.exec(5))"),
    ("/etc/credstore.encrypted", "credentials of services (systemd.exec(5))"),
    ("/etc/kubernetes", "the cluster's keys and tokens"),
    ("/etc/rancher", "the cluster's keys and tokens"),
    ("/root/.ssh", "root's keys to other machines"),
    ("/root/.gnupg", "root's keys"),
    ("/root/.aws", "tokens of a cloud account"),
    ("/root/.config/gcloud", "tokens of a cloud account"),
    ("/root/.azure", "tokens of a cloud account"),
    ("/root/.kube", "the cluster's keys and tokens"),
    ("/root/.docker", "passwords of image registries"),
    ("/root/.netrc", "passwords of other machines"),
    ("/root/.pgpass", "passwords of databases"),
    ("/root/.my.cnf", "passwords of databases"),
    ("/root/.bash_history", "what was typed, passwords included"),
    ("/etc/mysql/debian.cnf", "the password of the database's own administrator"),
    ("/var/lib/kubelet", "the tokens of every pod on this host"),
    ("/var/lib/rancher", "the cluster's keys and tokens"),
    ("/var/lib/systemd/credential.secret", "the key that credentials are encrypted with"),
    ("/var/lib/systemd/random-seed", "what the next boot's random numbers begin with"),
    ("/var/lib/sss/secrets", "secrets of the directory service"),
    ("/var/lib/samba/private", "the host's keys in a Windows domain"),
    ("/var/lib/cloud", "what the cloud gave this host at boot, often passwords"),
];

/// The paths that are hidden by default from a portspace with this root.
pub(crate) fn default_mask(root: &Root) -> Vec<PathBuf> {
    match root {
        Root::Base => BASE_MASK.iter().map(|(path, _)| PathBuf::from(path)).collect(),
        Root::Directory(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Component, Path};

    #[test]
    fn every_entry_is_a_plain_path_with_a_reason_and_none_is_inside_another() {
        for (index, (path, reason)) in BASE_MASK.iter().enumerate() {
            let mut parts = Path::new(path).components();
            assert_eq!(parts.next(), Some(Component::RootDir), "{path}");
            assert!(parts.all(|part| matches!(part, Component::Normal(_))), "{path}");
            assert!(!reason.is_empty(), "{path}");
            for (other, _) in BASE_MASK.iter().skip(index + 1) {
                let nested =
                    Path::new(path).starts_with(other) || Path::new(other).starts_with(path);
                assert!(!nested, "{path} and {other}");
            }
        }
    }

    #[test]
    fn only_the_base_system_has_one() {
        assert!(default_mask(&Root::Base).contains(&PathBuf::from("/etc/shadow")));
        assert!(default_mask(&Root::Directory("/srv/r".into())).is_empty());
    }
}

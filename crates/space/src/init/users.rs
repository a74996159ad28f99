//! Users of a space by name: its own `/etc/passwd` and `/etc/group`, read as data (passwd(5),
//! group(5)). No name service is asked: its modules are code of the space.

use std::fs;
use std::io::Read;

use rustix::fs::{Mode, OFlags};

/// The most that is read of either file, in bytes.
const LARGEST: u64 = 1 << 20;

/// A user to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
    /// The login name, where there is one.
    pub name: Option<String>,
}

/// Finds the user `wanted`, a name, a number, or `UID:GID`.
///
/// # Errors
/// A text that says what is missing.
pub fn find(wanted: &str) -> Result<User, String> {
    find_in(wanted, &read("/etc/passwd"), &read("/etc/group"))
}

/// Reads a file that the space may have made anything of: no pipe holds init up, and no size fills
/// its memory.
fn read(path: &str) -> String {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut text = String::new();
    if let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(fs::File::from)
        && file.metadata().is_ok_and(|found| found.is_file())
    {
        let mut bytes = Vec::new();
        let _ = file.take(LARGEST).read_to_end(&mut bytes);
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    text
}

fn find_in(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    if let Some((uid, gid)) = wanted.split_once(':') {
        return match (uid.parse(), gid.parse()) {
            (Ok(uid), Ok(gid)) => Ok(User { gid, ..bare(uid) }),
            _ => Err(format!("user {wanted:?}: expected UID:GID")),
        };
    }
    let number = wanted.parse::<u32>().ok();
    let entry = passwd.lines().filter_map(entry).find(|user| {
        user.name.as_deref() == Some(wanted) || (number.is_some() && number == Some(user.uid))
    });
    match (entry, number) {
        (Some(user), _) => Ok(User { groups: groups(&user, group), ..user }),
        (None, Some(uid)) => Ok(bare(uid)),
        (None, None) if wanted == "root" => Ok(bare(0)),
        (None, None) => Err(format!("user {wanted:?} is not in the root's /etc/passwd")),
    }
}

fn bare(uid: u32) -> User {
    User { uid, gid: uid, groups: vec![], home: "/".into(), name: None }
}

fn entry(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some(User {
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        groups: vec![],
        home: home.into(),
        name: Some(name.into()),
    })
}

fn groups(user: &User, group: &str) -> Vec<u32> {
    let named = group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else { return None };
        let member = members.split(',').any(|member| Some(member) == user.name.as_deref());
        gid.parse().ok().filter(|_| member)
    });
    std::iter::once(user.gid).chain(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nsyslog:x:104:110::/home/syslog:/bin/false\nbad line\n";
    const GROUP: &str = "root:x:0:\nadm:x:4:syslog,other\nsyslog:x:110:\n";

    #[test]
    fn a_name_brings_its_groups() {
        let user = find_in("syslog", PASSWD, GROUP).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (104, 110, vec![110, 4]));
    }

    #[test]
    fn a_number_need_not_be_known() {
        assert_eq!(find_in("12345", PASSWD, GROUP).unwrap().uid, 12345);
        assert_eq!(find_in("104", PASSWD, GROUP).unwrap().gid, 110);
        assert_eq!(find_in("7:8", PASSWD, GROUP).unwrap().gid, 8);
    }

    #[test]
    fn a_root_without_users_still_has_root() {
        assert_eq!(find_in("root", "", "").unwrap().uid, 0);
        assert!(find_in("nobody", "", "").unwrap_err().contains("/etc/passwd"));
    }
}

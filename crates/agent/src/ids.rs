//! Ranges of user ids for portspaces, unique among all agents of the machine.
//!
//! A range stays with its portspace for as long as there are files that carry its ids. The register
//! is one directory for the whole machine, since agents with state directories of their own still
//! share the kernel's ids.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, on};
use crate::files;
use crate::layout::{Layout, private_dir};
use crate::lock::is_at;

/// The first id that is given out: the upper end of what systemd's list of id ranges leaves unused.
const FIRST: u32 = 0x7000_0000;
/// How many ranges there are.
const COUNT: u32 = 4095;
/// How many ids a range has.
const SIZE: u32 = hyperspector_space::config::IdRange::SIZE;

/// The file of the ranges, the one of the agents, and the one that is locked.
const RANGES: &str = "ranges.json";
const AGENTS: &str = "agents.json";
const LOCK: &str = "lock";

/// Who holds a range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Holder {
    base: u32,
    /// The directory that holds the files with these ids.
    holder: PathBuf,
}

/// The first range that nobody holds.
fn free(held: &[Holder]) -> Option<u32> {
    let is_free = |base: &u32| held.iter().all(|entry| entry.base != *base);
    (0..COUNT).map(|number| FIRST + number * SIZE).find(is_free)
}

/// The first id of the machine's range of `holder`, a directory of root's alone, which is made where it is
/// not there.
pub(crate) fn held_by(holder: &Path) -> Result<u32, Error> {
    private_dir(holder).doing(on("make", holder))?;
    Register::default().range(holder)
}

/// The machine's register.
#[derive(Debug)]
pub struct Register {
    directory: PathBuf,
}

impl Default for Register {
    fn default() -> Self {
        Self { directory: "/var/lib/hyperspector-ids".into() }
    }
}

impl Register {
    /// The range of `holder`, given out now where it has none. Returns its first id.
    pub fn range(&self, holder: &Path) -> Result<u32, Error> {
        self.change(|held| {
            if let Some(entry) = held.iter().find(|entry| entry.holder == holder) {
                return Ok(entry.base);
            }
            let base = free(held).or_else(|| {
                // A directory that is not there may be on a disk that is not mounted yet: its range
                // is given to somebody else only when there is no other.
                held.retain(|entry| entry.holder.exists());
                free(held)
            });
            let base =
                base.ok_or_else(|| Error::new("give out a range of user ids", "all are taken"))?;
            held.push(Holder { base, holder: holder.to_owned() });
            Ok(base)
        })
    }

    /// Takes back the ranges of everything below `directory`.
    pub fn release_below(&self, directory: &Path) -> Result<(), Error> {
        if !self.directory.exists() {
            return Ok(());
        }
        self.change(|held| {
            held.retain(|entry| !entry.holder.starts_with(directory));
            Ok(())
        })?;
        self.change_agents(|_| {})
    }

    /// Notes the directories of an agent, which no portspace of any agent may see.
    pub fn announce(&self, layout: &Layout) -> Result<(), Error> {
        self.change_agents(|known| known.push([layout.state.clone(), layout.run.clone()]))
    }

    /// Forgets the directories of an agent.
    pub fn withdraw(&self, layout: &Layout) -> Result<(), Error> {
        if !self.directory.exists() {
            return Ok(());
        }
        let own = [layout.state.clone(), layout.run.clone()];
        self.change_agents(|known| known.retain(|one| *one != own))
    }

    /// The state directories of all agents of the machine.
    pub fn agents(&self) -> Vec<PathBuf> {
        self.known().into_iter().map(|[state, _]| state).collect()
    }

    /// The directories of all agents of the machine, and the register's own.
    pub fn hidden(&self) -> Vec<PathBuf> {
        self.known().into_iter().flatten().chain([self.directory.clone()]).collect()
    }

    fn known(&self) -> Vec<[PathBuf; 2]> {
        files::load(&self.directory.join(AGENTS)).unwrap_or_default()
    }

    fn change_agents(&self, change: impl FnOnce(&mut Vec<[PathBuf; 2]>)) -> Result<(), Error> {
        let _lock = self.lock()?;
        let path = self.directory.join(AGENTS);
        let mut known = self.known();
        known.retain(|dirs| dirs.iter().any(|dir| dir.exists()));
        change(&mut known);
        known.sort();
        known.dedup();
        if known.is_empty() && self.is_unused() {
            self.remove();
            return Ok(());
        }
        files::save(&path, &known).doing(on("write", &path))
    }

    fn is_unused(&self) -> bool {
        let held: Vec<Holder> = files::load(&self.directory.join(RANGES)).unwrap_or_default();
        held.is_empty()
    }

    /// Takes the lock, on the register that is there now: who had it last may have removed that.
    fn lock(&self) -> Result<File, Error> {
        let path = self.directory.join(LOCK);
        loop {
            crate::layout::private_dir(&self.directory).doing(on("make", &self.directory))?;
            let lock = match File::create(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.doing(on("open", &path))?,
            };
            flock(&lock, FlockOperation::LockExclusive).doing(on("lock", &path))?;
            if is_at(&lock, &path) {
                return Ok(lock);
            }
        }
    }

    /// Removes the register, whose lock is held: the lock file goes last but for the directory,
    /// which stays where somebody has made a new one in it.
    fn remove(&self) {
        for name in [RANGES, AGENTS, LOCK] {
            let _ = fs::remove_file(self.directory.join(name));
        }
        let _ = fs::remove_dir(&self.directory);
    }

    /// Reads the register, lets `change` change it, and writes it back, alone.
    fn change<R>(
        &self,
        change: impl FnOnce(&mut Vec<Holder>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let _lock = self.lock()?;
        let ranges = self.directory.join(RANGES);
        let mut held = files::load(&ranges).unwrap_or_default();
        let result = change(&mut held)?;
        files::save(&ranges, &held).doing(on("write", &ranges))?;
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kept_apart_and_given_back() {
        let home = tempfile::tempdir().unwrap();
        let register = Register { directory: home.path().join("register") };
        let (a, b) = (home.path().join("a"), home.path().join("b"));
        fs::create_dir(&a).unwrap();
        fs::create_dir(&b).unwrap();
        let (first, second) = (register.range(&a).unwrap(), register.range(&b).unwrap());
        assert_eq!(second - first, SIZE);
        assert_eq!(register.range(&a).unwrap(), first);
        register.release_below(&a).unwrap();
        assert_eq!(register.range(&b).unwrap(), second);
        register.release_below(&b).unwrap();
        assert!(!register.directory.exists());
    }

    #[test]
    fn a_directory_that_is_away_keeps_its_range() {
        let home = tempfile::tempdir().unwrap();
        let register = Register { directory: home.path().join("register") };
        let (away, other) = (home.path().join("away"), home.path().join("other"));
        let range = register.range(&away).unwrap();
        assert_ne!(register.range(&other).unwrap(), range);
        assert_eq!(register.range(&away).unwrap(), range);
    }

    #[test]
    fn nobody_loses_a_range_while_others_remove_the_register() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("register");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let register = Register { directory: directory.clone() };
                let holder = home.path().join(thread.to_string());
                scope.spawn(move || {
                    for _ in 0..20 {
                        let range = register.range(&holder).unwrap();
                        assert_eq!(register.range(&holder).unwrap(), range);
                        let all: Vec<Holder> =
                            files::load(&register.directory.join(RANGES)).unwrap();
                        assert_eq!(all.iter().filter(|one| one.base == range).count(), 1);
                        register.release_below(&holder).unwrap();
                    }
                });
            }
        });
        assert!(!directory.exists());
    }
}

//! Files and directories of the host that a space has beside its root.
//!
//! What the host has mounted below one is shown too, as far as its owners can be shifted. What the
//! host mounts or unmounts there later is not followed: the space's mounts are its own.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use hyperspector_sys::mount::{attr, set_attributes};

use super::{Failed, Shift, Step, attach_over, mask, tree};
use crate::config::Bind;

/// Clones what `bind` shows. A writable one must not hold any of the directories `own`, which are
/// HyperSpector's: what lies over them could be got round from outside.
pub(super) fn clone(bind: &Bind, shift: &Shift<'_>, own: &[PathBuf]) -> Result<tree::Tree, Failed> {
    let tree = tree::whole(&bind.from, shift)?;
    let held = own.iter().find(|own| bind.writable && own.starts_with(&tree.source));
    match held {
        Some(own) => Err(io::Error::other(format!("it holds {}", own.display())))
            .step(|| format!("mount {} writable", bind.from.display())),
        None => Ok(tree),
    }
}

/// Attaches the clones at their place in the root, making the place where there is none.
pub(super) fn attach(root: &Path, bind: &Bind, tree: &tree::Tree) -> Result<(), Failed> {
    let step = || format!("mount {} at {}", bind.from.display(), bind.to.display());
    let set = attr::NOSUID | attr::NODEV | if bind.writable { 0 } else { attr::RDONLY };
    let is_dir = tree.source.is_dir();
    for (place, mount) in tree.parts() {
        set_attributes(mount, false, set, 0, None).step(step)?;
        let target = if place.as_os_str().is_empty() {
            mask::place(root, &bind.to, is_dir).step(step)?
        } else {
            let top = mask::found(root, &bind.to).step(step)?;
            mask::without_links(&top, place).step(step)?
        };
        attach_over(mount, target.as_fd()).step(step)?;
    }
    Ok(())
}

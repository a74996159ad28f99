//! Keeping hidden what servers put anew in the place of something hidden.
//!
//! A mask is a mount over a file of the server's live file system, and the kernel takes it away with
//! that file: whoever renames a new `/etc/shadow` over the old one uncovers it in every view. So the
//! hidden paths are looked at again and again from outside, and hidden again where they changed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::build::tree;
use hyperspector_space::root::{identity, mask};
use hyperspector_spec::plan::{PortspacePlan, ServerPlan};

/// What was hidden in a portspace's views: view and path, with the file that was there.
#[derive(Debug, Default)]
pub(crate) struct Masks(HashMap<(String, PathBuf), Option<(u64, u64)>>);

impl Masks {
    /// Hides again what has changed, in the portspace `plan` whose init is `init`.
    pub(crate) fn keep(
        &mut self,
        servers: &[ServerPlan],
        plan: &PortspacePlan,
        init: i32,
    ) -> io::Result<()> {
        for window in &plan.windows.files {
            let Some(source) = tree(servers, &window.server) else { continue };
            for path in &window.mask {
                self.look(source, &window.server, path, init)?;
            }
        }
        Ok(())
    }

    fn look(&mut self, source: &Path, view: &str, path: &Path, init: i32) -> io::Result<()> {
        let key = (view.to_owned(), path.to_owned());
        let now = identity(source, path)?;
        if self.0.get(&key) == Some(&now) {
            return Ok(());
        }
        if let Some((device, _)) = now {
            mask::hide_again(init, view, path, device)?;
        }
        self.0.insert(key, now);
        Ok(())
    }
}

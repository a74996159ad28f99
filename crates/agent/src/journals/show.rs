//! Showing journals and upper layers in portspaces.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hyperspector_space::root::BLANK;
use hyperspector_space::userns;
use hyperspector_spec::plan::{Ids, PortspacePlan, ServerKind, ServerPlan};
use hyperspector_window::changes::view;

use super::{Journal, Journals};
use crate::error::{Doing, Error};
use crate::ids::Register;
use crate::layout::{Layout, SpaceName};

/// How often it is looked whether something has to be hidden that the server has just made.
const HIDE_PERIOD: Duration = Duration::from_millis(200);

/// What is shown in a portspace of a server's upper layer, by the portspace's init and the server.
pub(super) type Shown = BTreeMap<(i32, String), Layer>;

/// An upper layer that is shown.
#[derive(Debug)]
pub(super) struct Layer {
    number: u64,
    /// Whether there is one.
    is_there: bool,
    hidden: Instant,
}

impl Journals {
    /// Lays out the changes window of a portspace whose command does not run yet.
    pub(crate) fn open(
        &mut self,
        layout: &Layout,
        servers: &[ServerPlan],
        plan: &PortspacePlan,
        init: i32,
    ) -> Result<(), Error> {
        let wanted = &plan.windows.changes;
        if wanted.is_empty() {
            return Ok(());
        }
        let doing = || format!("show changes in {}", plan.name);
        let mounts = namespace(init, "mnt").doing(doing)?;
        view::lay_out(mounts.as_fd(), wanted).doing(doing)?;
        for server in wanted {
            let directory = layout.journal(server).state;
            view::show_journal(mounts.as_fd(), server, &directory)
                .doing(|| format!("show what changes on {server} in {}", plan.name))?;
        }
        self.show_uppers(layout, servers, plan, init)
    }

    /// Shows the upper layers of servers that are not shown yet, or are others than those that are.
    pub(crate) fn show_uppers(
        &mut self,
        layout: &Layout,
        servers: &[ServerPlan],
        plan: &PortspacePlan,
        init: i32,
    ) -> Result<(), Error> {
        for name in &plan.windows.changes {
            let Some(server) = servers.iter().find(|server| server.name == *name) else { continue };
            let Some(journal) = self.all.get(name) else { continue };
            let doing = || format!("show the upper layer of {name} in {}", plan.name);
            let key = (init, name.clone());
            let number = journal.uppers_number;
            let shown = self.shown.get_mut(&key).filter(|layer| layer.number == number);
            if let Some(layer) = shown {
                if layer.is_there && layer.hidden.elapsed() >= HIDE_PERIOD {
                    layer.hidden = Instant::now();
                    hide(server, plan, init).doing(doing)?;
                }
                continue;
            }
            if number == 0 {
                continue;
            }
            // Once: what cannot be shown will not be by itself.
            let is_there = !journal.uppers.is_empty();
            self.shown.insert(key, Layer { number, is_there, hidden: Instant::now() });
            show(layout, server, journal, plan, init).doing(doing)?;
            if is_there {
                hide(server, plan, init).doing(doing)?;
            }
        }
        Ok(())
    }

    /// Forgets what was shown in spaces that have ended.
    pub(crate) fn forget_others(&mut self, is_there: impl Fn(i32) -> bool) {
        self.shown.retain(|(init, _), _| is_there(*init));
    }
}

fn show(
    layout: &Layout,
    server: &ServerPlan,
    journal: &Journal,
    plan: &PortspacePlan,
    init: i32,
) -> Result<(), Error> {
    let doing = || "shift its owners".to_owned();
    let users = shift(layout, server, plan, init)?;
    let mounts = namespace(init, "mnt").doing(doing)?;
    let users = users.as_ref().map(AsFd::as_fd);
    let layers: Vec<(PathBuf, OwnedFd)> = journal
        .uppers
        .iter()
        .map(|(place, tree)| Ok((place.clone(), tree.try_clone()?)))
        .collect::<std::io::Result<_>>()
        .doing(doing)?;
    view::show_upper(mounts.as_fd(), &server.name, &layers, users).doing(|| "attach it".into())
}

/// Hides in an upper layer what windows on the server hide.
fn hide(server: &ServerPlan, plan: &PortspacePlan, init: i32) -> std::io::Result<()> {
    let windows = plan.windows.files.iter().filter(|window| window.server == server.name);
    let paths: Vec<PathBuf> =
        server.mask.iter().chain(windows.flat_map(|window| &window.mask)).cloned().collect();
    if paths.is_empty() {
        return Ok(());
    }
    let mounts = namespace(init, "mnt")?;
    view::hide(mounts.as_fd(), &server.name, &paths, Path::new(BLANK)).map(|_| ())
}

/// By which user namespace the owners of a server's upper layer are shifted, so that they look in the
/// portspace as they do in the server.
fn shift(
    layout: &Layout,
    server: &ServerPlan,
    plan: &PortspacePlan,
    init: i32,
) -> Result<Option<OwnedFd>, Error> {
    let doing = || "make a user namespace to shift owners by".to_owned();
    let is_private = plan.space.ids == Ids::Private;
    let from = match &server.kind {
        ServerKind::Space(space) if space.space.ids == Ids::Private => {
            Some(Register::default().range(&layout.server(&server.name).state)?)
        }
        _ => None,
    };
    match from {
        None if is_private => namespace(init, "user").map(Some).doing(doing),
        None => Ok(None),
        Some(from) => {
            let own =
                Register::default().range(&layout.space(&SpaceName::from(&plan.name)).state)?;
            let to = if is_private { own } else { 0 };
            userns::shifting(from, to, own).map(Some).doing(doing)
        }
    }
}

fn namespace(pid: i32, kind: &str) -> std::io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/{pid}/ns/{kind}"))?.into())
}

//! The ready specs of `examples/`, and the root that they run on.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::process::run;

/// How long making a root may take, packages downloaded included.
const MAKING: Duration = Duration::from_secs(600);

/// A ready spec, with paths of the test's own in it and nothing else changed.
#[derive(Clone, Debug)]
pub struct Recipe(String);

impl Recipe {
    /// That in `examples/NAME`, its configuration taken from there, on the root of all recipes.
    #[track_caller]
    pub fn of(name: &str) -> Self {
        let folder = repository().join("examples").join(name);
        let text = fs::read_to_string(folder.join("spec.toml")).unwrap();
        let root = root_of_all().display().to_string();
        Self(text)
            .with(&format!("\"/etc/hyperspector/{name}"), &format!("\"{}", folder.display()))
            .with(&format!("\"/srv/roots/{name}\""), &format!("\"{root}\""))
    }

    /// With something replaced, which must be there.
    #[track_caller]
    pub fn with(self, from: &str, to: &str) -> Self {
        assert!(self.0.contains(from), "{from} is not in {}", self.0);
        Self(self.0.replace(from, to))
    }

    /// With another directory of a server's.
    #[track_caller]
    pub fn with_directory(self, from: &str, to: &Path) -> Self {
        let line = |path: &str| format!("directory = \"{path}\"");
        self.with(&line(from), &line(&to.display().to_string()))
    }

    /// The spec.
    pub fn text(&self) -> &str {
        &self.0
    }
}

/// A Debian root with these packages, made by `tools/make-root` as a user would, and kept in the
/// target directory for later runs.
#[track_caller]
pub fn debian_root(name: &str, packages: &BTreeSet<String>) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().nth(3).unwrap();
    let root = target.join("roots").join(name);
    let command = &mut Command::new(repository().join("tools/make-root"));
    run(command.arg(&root).args(packages), b"", MAKING).expect(0);
    root
}

/// The root that has what each recipe's own line says that it needs.
fn root_of_all() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let folders = fs::read_dir(repository().join("examples")).unwrap().flatten();
        let specs = folders.filter_map(|f| fs::read_to_string(f.path().join("spec.toml")).ok());
        debian_root("recipes", &specs.flat_map(|spec| packages(&spec)).collect())
    })
}

/// The packages in a spec's line `#   tools/make-root DIRECTORY PACKAGE…`, up to another `#`.
fn packages(spec: &str) -> Vec<String> {
    let lines = spec.lines().filter_map(|line| line.split_once("tools/make-root "));
    let lists = lines.map(|(_, line)| line.split('#').next().unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().skip(1)).map(str::to_owned).collect()
}

/// Where this repository is.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

//! What the programs that people speak to keep of containers: Docker and Podman.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Known;
use super::files::{directories, json, text};

/// All containers that Docker and Podman know, whether they run or not.
pub(super) fn all() -> Vec<Known> {
    let mut all = Vec::new();
    for root in docker_roots() {
        all.extend(directories(&root.join("containers")).iter().filter_map(|one| docker(one)));
    }
    for root in podman_roots() {
        // One directory for each storage driver: overlay-containers, vfs-containers.
        let stores = directories(&root);
        let stores = stores.iter().filter(|path| path.to_string_lossy().ends_with("-containers"));
        all.extend(stores.flat_map(|store| podman(store)));
    }
    all
}

/// Where Docker keeps its containers: by default, as a snap, and as its configuration says.
fn docker_roots() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> =
        vec!["/var/lib/docker".into(), "/var/snap/docker/common/var-lib-docker".into()];
    let config = json(Path::new("/etc/docker/daemon.json"));
    let root = config.as_ref().and_then(|config| config.get("data-root")?.as_str());
    roots.extend(root.map(PathBuf::from));
    roots.sort();
    roots.dedup();
    roots
}

/// Where Podman and CRI-O keep theirs: by default, and as their configuration says.
fn podman_roots() -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = vec!["/var/lib/containers/storage".into()];
    let config = text(Path::new("/etc/containers/storage.conf")).unwrap_or_default();
    roots.extend(config.lines().filter_map(|line| {
        let value = line.trim().strip_prefix("graphroot")?.trim_start().strip_prefix('=')?;
        Some(PathBuf::from(value.trim().trim_matches('"')))
    }));
    roots.sort();
    roots.dedup();
    roots
}

/// A container's directory of Docker.
fn docker(directory: &Path) -> Option<Known> {
    let config = json(&directory.join("config.v2.json"))?;
    let name = config.get("Name")?.as_str()?.trim_start_matches('/').to_owned();
    let state = config.get("State");
    let is_running = state.and_then(|state| state.get("Running")?.as_bool()).unwrap_or(false);
    let pid = state.and_then(|state| i32::try_from(state.get("Pid")?.as_i64()?).ok());
    let pid = pid.filter(|pid| is_running && *pid > 0);
    Some(Known {
        id: config.get("ID")?.as_str()?.to_owned(),
        names: vec![name],
        process: pid.map(|pid| (pid, None)),
    })
}

/// The containers in a store of Podman's and CRI-O's (containers/storage).
fn podman(store: &Path) -> Vec<Known> {
    let lists = ["containers.json", "volatile-containers.json"];
    let lists = lists.iter().filter_map(|name| json(&store.join(name)));
    lists.flat_map(|list| list.as_array().cloned().unwrap_or_default()).filter_map(stored).collect()
}

fn stored(entry: Value) -> Option<Known> {
    let names = entry.get("names").and_then(Value::as_array);
    let names = names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    Some(Known { id: entry.get("id")?.as_str()?.to_owned(), names: names.collect(), process: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn docker_s_and_podman_s_files() {
        // SAFETY: geteuid takes nothing and cannot fail.
        let is_root = unsafe { libc::geteuid() == 0 };
        let home = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
        write(
            "config.v2.json",
            r#"{"ID": "a1", "Name": "/shop", "State": {"Running": true, "Pid": 12}}"#,
        );
        let wanted =
            Known { id: "a1".into(), names: vec!["shop".into()], process: Some((12, None)) };
        assert_eq!(docker(home.path()), is_root.then_some(wanted));
        write(
            "config.v2.json",
            r#"{"ID": "a1", "Name": "/shop", "State": {"Running": false, "Pid": 12}}"#,
        );
        assert_eq!(docker(home.path()).and_then(|known| known.process), None);
        write("containers.json", r#"[{"id": "b2", "names": ["db"]}, {"names": ["x"]}, 7]"#);
        write("volatile-containers.json", r#"{"not": "a list"}"#);
        let found = podman(home.path());
        let wanted = Known { id: "b2".into(), names: vec!["db".into()], process: None };
        assert_eq!(found, Vec::from_iter(is_root.then_some(wanted)));
    }
}

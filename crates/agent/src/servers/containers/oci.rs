//! What the runtimes that start processes keep of them: runc, crun, and containerd's shims.

use std::path::Path;

use serde_json::Value;

use super::Known;
use super::files::{directories, json, name, text};

/// Directories whose directories are containers of runc or crun.
const FLAT: &[&str] = &["/run/runc", "/run/crun"];

/// Directories whose directories are namespaces of containerd, with containers in them.
const SPACED: &[&str] = &[
    "/run/containerd/runc",
    "/run/docker/runtime-runc",
    "/run/docker/containerd/runc",
    "/run/k3s/containerd/runc",
    "/run/containerd/io.containerd.runtime.v2.task",
    "/run/docker/containerd/daemon/io.containerd.runtime.v2.task",
    "/run/k3s/containerd/io.containerd.runtime.v2.task",
];

/// Annotations that hold a container's name, each with those that hold what it is in.
const NAMES: &[(&str, &[&str])] = &[
    ("nerdctl/name", &[]),
    (
        "io.kubernetes.cri.container-name",
        &["io.kubernetes.cri.sandbox-name", "io.kubernetes.cri.sandbox-namespace"],
    ),
    ("io.kubernetes.container.name", &["io.kubernetes.pod.name", "io.kubernetes.pod.namespace"]),
];

/// All containers that run.
pub(super) fn all() -> Vec<Known> {
    let flat = FLAT.iter().flat_map(|path| directories(Path::new(path)));
    let spaces = SPACED.iter().flat_map(|path| directories(Path::new(path)));
    flat.chain(spaces.flat_map(|space| directories(&space))).filter_map(|one| read(&one)).collect()
}

fn read(directory: &Path) -> Option<Known> {
    runc(directory).or_else(|| crun(directory)).or_else(|| shim(directory))
}

/// runc's `state.json`.
fn runc(directory: &Path) -> Option<Known> {
    let state = json(&directory.join("state.json"))?;
    let labels = state.pointer("/config/labels").and_then(Value::as_array);
    let labels = labels.into_iter().flatten().filter_map(|label| label.as_str()?.split_once('='));
    let labels: Vec<(&str, &str)> = labels.collect();
    let label =
        |wanted: &str| labels.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
    Some(Known {
        id: state.get("id")?.as_str()?.to_owned(),
        names: names(label),
        process: process(&state, "init_process_pid", "init_process_start"),
    })
}

/// crun's `status`.
fn crun(directory: &Path) -> Option<Known> {
    let status = json(&directory.join("status"))?;
    let bundle = status.get("bundle").and_then(Value::as_str).map(Path::new);
    Some(Known {
        id: name(directory)?,
        names: bundle.map(annotated).unwrap_or_default(),
        process: process(&status, "pid", "process-start-time"),
    })
}

/// The directory of a containerd shim: the bundle, and the process's id.
fn shim(directory: &Path) -> Option<Known> {
    let pid = text(&directory.join("init.pid"))?.trim().parse().ok()?;
    Some(Known { id: name(directory)?, names: annotated(directory), process: Some((pid, None)) })
}

fn process(state: &Value, pid: &str, start: &str) -> Option<(i32, Option<u64>)> {
    let number = |key: &str| {
        let value = state.get(key)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    };
    let pid = i32::try_from(number(pid)?).ok().filter(|pid| *pid > 0)?;
    Some((pid, number(start).filter(|start| *start > 0)))
}

/// The names in the annotations of a bundle (the OCI runtime specification's `config.json`).
fn annotated(bundle: &Path) -> Vec<String> {
    let config = json(&bundle.join("config.json"));
    let annotations = config.as_ref().and_then(|config| config.get("annotations"));
    names(|key| annotations?.get(key)?.as_str())
}

/// A container's name, and the same with what it is in before it.
fn names<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Vec<String> {
    let mut names = Vec::new();
    for (key, above) in NAMES {
        let Some(name) = annotation(key) else { continue };
        names.push(name.to_owned());
        for key in *above {
            let Some(above) = annotation(key) else { break };
            let longer = names.last().map(|name| format!("{above}/{name}"));
            names.extend(longer);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn directory(file: &str, text: &str) -> (tempfile::TempDir, Option<Known>) {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("shop");
        fs::create_dir(&path).unwrap();
        fs::write(path.join(file), text).unwrap();
        let known = read(&path);
        (home, known)
    }

    // They are read only where they are root's.
    fn is_root() -> bool {
        // SAFETY: geteuid takes nothing and cannot fail.
        unsafe { libc::geteuid() == 0 }
    }

    #[test]
    fn runc_s_state() {
        let text = r#"{"id": "a1", "init_process_pid": 12, "init_process_start": 345, "config":
            {"labels": ["bundle=/b", "io.kubernetes.cri.container-name=web",
             "io.kubernetes.cri.sandbox-name=shop", "io.kubernetes.cri.sandbox-namespace=prod"]}}"#;
        let (_home, known) = directory("state.json", text);
        let names = ["web", "shop/web", "prod/shop/web"].map(str::to_owned).into();
        let wanted = Known { id: "a1".into(), names, process: Some((12, Some(345))) };
        assert_eq!(known, is_root().then_some(wanted));
        // Older ones wrote the time as text.
        let (_home, known) = directory(
            "state.json",
            r#"{"id": "a1", "init_process_pid": 12, "init_process_start": "345"}"#,
        );
        assert_eq!(known.and_then(|known| known.process), is_root().then_some((12, Some(345))));
    }

    #[test]
    fn crun_s_status() {
        let text = r#"{"pid": 12, "process-start-time": 345, "bundle": "/nowhere"}"#;
        let (_home, known) = directory("status", text);
        let wanted = Known { id: "shop".into(), names: vec![], process: Some((12, Some(345))) };
        assert_eq!(known, is_root().then_some(wanted));
    }

    #[test]
    fn nonsense_is_no_container() {
        for text in ["", "[]", "{}", "{\"id\": 1}", "{\"pid\": -1}"] {
            let (_home, known) = directory("state.json", text);
            assert_eq!(known, None, "{text}");
        }
        let (_home, known) = directory("status", r#"{"pid": -5, "process-start-time": 1}"#);
        assert_eq!(known.and_then(|known| known.process), None);
    }
}

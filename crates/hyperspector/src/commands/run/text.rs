//! The spec that `hyperspector run` makes of its flags.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cli::Run;

/// What this machine is called in it.
pub(super) const HOST: &str = "here";

/// The keys of `adopt` that a flag can name, as they are typed and as the spec has them.
const KINDS: [(&str, &str); 4] =
    [("unit", "unit"), ("container", "container"), ("cgroup", "cgroup"), ("pid-file", "pid_file")];

/// The text of the spec.
pub(super) fn spec(run: &Run) -> Result<String> {
    let mut servers = Servers::default();
    let files = servers.named(&run.files)?;
    let changes = servers.named(&run.changes)?;
    let processes = servers.named(&run.processes)?;
    let sockets = run.sockets.iter().map(|typed| socket(typed, &mut servers));
    let sockets = sockets.collect::<Result<Vec<_>>>()?;

    let mut text = format!("[host.{HOST}]\n");
    for (name, adopt) in &servers.0 {
        writeln!(text, "[server.{name}]\non = [\"{HOST}\"]\nadopt = {adopt}")?;
    }
    writeln!(text, "[hyperspector.run]\nnetwork = \"10.255.255.0/24\"")?;
    writeln!(text, "[hyperspector.run.portspace.run]\non = [\"{HOST}\"]\nrestart = \"never\"")?;
    writeln!(text, "command = {}", list(&run.command))?;
    if let Some(root) = &run.root {
        writeln!(text, "root = {}", quoted(&found(root)?))?;
    }
    if run.host_ids {
        writeln!(text, "ids = \"host\"")?;
    }
    if let Some(memory) = &run.memory {
        writeln!(text, "limits.memory = {}", quoted(memory))?;
    }
    if !sockets.is_empty() {
        writeln!(text, "watch.sockets = [{}]", sockets.join(", "))?;
    }
    let lists = [
        ("allow-missing", &run.allow_missing),
        ("watch.packets", &run.packets),
        ("watch.files", &files),
        ("watch.changes", &changes),
        ("watch.processes", &processes),
    ];
    for (key, items) in lists.iter().filter(|(_, items)| !items.is_empty()) {
        writeln!(text, "{key} = {}", list(items))?;
    }
    Ok(text)
}

/// Servers by name, each with its `adopt`.
#[derive(Debug, Default)]
struct Servers(Vec<(String, String)>);

impl Servers {
    fn named(&mut self, typed: &[String]) -> Result<Vec<String>> {
        typed.iter().map(|typed| self.name(typed)).collect()
    }

    /// The name of the server that is meant by `/srv/www`, `unit:nginx.service` or `base`.
    fn name(&mut self, typed: &str) -> Result<String> {
        if matches!(typed, "base" | "/") {
            return Ok("base".to_owned());
        }
        let (key, value) = match typed.split_once(':') {
            Some((kind, value)) if !typed.starts_with(['/', '.']) => {
                let Some((_, key)) = KINDS.iter().find(|(known, _)| *known == kind) else {
                    bail!("\"{typed}\" names no server: {FORMS}");
                };
                (*key, value.to_owned())
            }
            _ => ("directory", found(Path::new(typed))?),
        };
        if (key, value.as_str()) == ("directory", "/") {
            return Ok("base".to_owned());
        }
        let adopt = format!("{{ {key} = {} }}", quoted(&value));
        if let Some((name, _)) = self.0.iter().find(|(_, known)| *known == adopt) {
            return Ok(name.clone());
        }
        let name = self.free(&plain_name(&value));
        self.0.push((name.clone(), adopt));
        Ok(name)
    }

    /// `name`, or with the first number that makes it another than those that there are.
    fn free(&self, name: &str) -> String {
        let is_taken = |name: &str| {
            matches!(name, "base" | "localhost") || self.0.iter().any(|(known, _)| known == name)
        };
        let numbered = (2_u32..).map(|number| format!("{name}-{number}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names.find(|name| !is_taken(name)).unwrap_or_default()
    }
}

const FORMS: &str = "a server is `base`, a directory, unit:NAME, container:NAME, cgroup:PATH or \
    pid-file:PATH";

/// `PATH` of the base system or `SERVER:PATH`, and the path inside after `=` where it is another.
fn socket(typed: &str, servers: &mut Servers) -> Result<String> {
    let (whose, to) = match typed.split_once('=') {
        Some((whose, to)) => (whose, Some(to)),
        None => (typed, None),
    };
    let (server, path) = match whose.rsplit_once(":/") {
        Some((server, path)) => (servers.name(server)?, format!("/{path}")),
        None => ("base".to_owned(), whose.to_owned()),
    };
    let to = to.map(|to| format!(", to = {}", quoted(to))).unwrap_or_default();
    Ok(format!("{{ server = \"{server}\", path = {}{to} }}", quoted(&path)))
}

/// A server's name: the last component of what is typed without its suffix, as far as that makes one.
fn plain_name(value: &str) -> String {
    let last = Path::new(value).file_name().map(|name| name.to_string_lossy().to_lowercase());
    let last = last.unwrap_or_default();
    let stem = [".service", ".scope", ".slice", ".pid"]
        .iter()
        .find_map(|suffix| last.strip_suffix(suffix))
        .unwrap_or(&last);
    let dashed = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = stem.chars().map(dashed).take(24).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "server".to_owned() } else { name.to_owned() }
}

fn found(path: &Path) -> Result<String> {
    let found: PathBuf =
        std::fs::canonicalize(path).with_context(|| format!("find {}", path.display()))?;
    let text = found.to_str().with_context(|| format!("{} is not UTF-8", found.display()))?;
    Ok(text.to_owned())
}

/// A TOML basic string; JSON's escapes are among TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(items: &[String]) -> String {
    serde_json::Value::from(items.to_vec()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperspector_spec::Spec;
    use hyperspector_spec::plan::{Adoption, HostPlan, ServerKind};

    fn nothing() -> Run {
        Run {
            packets: Vec::new(),
            files: Vec::new(),
            changes: Vec::new(),
            processes: Vec::new(),
            sockets: Vec::new(),
            root: None,
            host_ids: false,
            memory: None,
            allow_missing: Vec::new(),
            command: vec!["x".into()],
        }
    }

    fn plan(run: &Run) -> HostPlan {
        let text = spec(run).unwrap();
        let spec = Spec::parse(&text).unwrap_or_else(|e| panic!("{}", e.lines("run", &text)));
        spec.plan(HOST).unwrap()
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn a_run_makes_a_spec_that_holds() {
        let run = Run {
            packets: strings(&["eth0"]),
            files: strings(&["/", "/usr"]),
            host_ids: true,
            memory: Some("64MiB".into()),
            allow_missing: strings(&["unix-guard"]),
            command: strings(&["tcpdump", "-w", "a \"quoted\" \\ file"]),
            ..nothing()
        };
        let plan = plan(&run);
        let portspace = &plan.hyperspectors[0].portspaces[0];
        assert_eq!(portspace.space.command, run.command);
        let shown: Vec<_> = portspace.windows.files.iter().map(|files| &files.server).collect();
        assert_eq!(shown, ["base", "usr"]);
    }

    #[test]
    fn each_kind_of_server_can_be_typed_and_has_a_name_of_its_own() {
        let run = Run {
            files: strings(&["unit:nginx.service", "/usr/lib", "/var/lib"]),
            changes: strings(&["base", "/usr/lib"]),
            processes: strings(&["container:Shop_1", "cgroup:/a/b.slice", "pid-file:/run/a.pid"]),
            ..nothing()
        };
        let plan = plan(&run);
        let windows = &plan.hyperspectors[0].portspaces[0].windows;
        let files: Vec<_> = windows.files.iter().map(|window| &window.server).collect();
        assert_eq!(files, ["nginx", "lib", "lib-2"]);
        assert_eq!(windows.changes, ["base", "lib"]);
        assert_eq!(windows.processes, ["shop-1", "b", "a"]);
        let kind = |name: &str| plan.server(name).unwrap().kind.clone();
        assert_eq!(kind("nginx"), ServerKind::Adopted(Adoption::Unit("nginx.service".into())));
        assert_eq!(kind("a"), ServerKind::Adopted(Adoption::PidFile("/run/a.pid".into())));
        assert_eq!(kind("b"), ServerKind::Adopted(Adoption::Cgroup("a/b.slice".into())));
    }

    #[test]
    fn a_socket_is_the_base_systems_or_a_servers() {
        let run = Run {
            sockets: strings(&["/dev/log", "container:shop:/run/log=/run/shop", "cgroup:/a:/x"]),
            ..nothing()
        };
        let plan = plan(&run);
        let sockets: Vec<_> = plan.hyperspectors[0].portspaces[0]
            .windows
            .sockets
            .iter()
            .map(|s| (s.server.as_str(), s.path.to_str().unwrap(), s.to.to_str().unwrap()))
            .collect();
        let expected = [
            ("base", "/dev/log", "/dev/log"),
            ("shop", "/run/log", "/run/shop"),
            ("a", "/x", "/x"),
        ];
        assert_eq!(sockets, expected);
    }

    #[test]
    fn what_names_no_server_is_told_what_does() {
        for typed in ["docker:shop", "units:x"] {
            let error = spec(&Run { files: strings(&[typed]), ..nothing() }).unwrap_err();
            assert!(error.to_string().contains("container:NAME"), "{error}");
        }
    }
}

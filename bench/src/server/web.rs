//! A web server's requests: nginx with one worker, asked by wrk from another host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::network::{Server, patiently};
use super::{ADDRESS, rate};
use crate::lab::{Lab, Side, output};
use crate::report::Row;

/// The port of the base side, and that of the server space.
const BASE: u16 = 8002;
/// See [`BASE`].
const HERE: u16 = 8001;
/// The sizes of what is asked for, in KiB.
const SIZES: [usize; 4] = [1, 16, 128, 1024];

/// Makes the directory with nginx's configuration and what it serves: in the server space it is
/// mounted, on the base system it is where it is.
pub fn site(work: &Path) -> Result<PathBuf> {
    let site = work.join("site");
    fs::create_dir(&site)?;
    for size in SIZES {
        fs::write(site.join(format!("{size}k")), vec![b'x'; size << 10])?;
    }
    fs::write(site.join("nginx.conf"), config("/site", HERE))?;
    fs::write(site.join("base.conf"), config(&site.display().to_string(), BASE))?;
    // Its workers are www-data.
    for path in [work, &site] {
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
        fs::set_permissions(path, mode)?;
    }
    Ok(site)
}

fn config(root: &str, port: u16) -> String {
    format!(
        "daemon off;\nworker_processes 1;\nuser www-data;\npid /run/hs-bench-nginx-{port}.pid;\n\
         error_log stderr;\nevents {{ worker_connections 256; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n\
         server {{ listen {port}; root {root}; }} }}\n"
    )
}

pub fn rows(lab: &Lab, base: &Side<'_>, site: &Path) -> Result<Vec<Row>> {
    let config = site.join("base.conf").display().to_string();
    let _base = Server::start(base.base("nginx")?.args(["-c", &config]))?;
    let mut rows = Vec::new();
    for size in SIZES {
        let wrk = |port: u16| -> Result<f64> {
            let url = format!("http://{ADDRESS}:{port}/{size}k");
            let mut command = lab.outside.command("wrk")?;
            let text = output(command.args(["-t1", "-c16", "-d1s", &url]))?;
            requests(&text).with_context(|| format!("wrk says {text}"))
        };
        patiently(|| wrk(BASE))?;
        let case = format!("nginx: {size} KiB");
        rows.push(rate(case, "requests/s", || wrk(BASE), || wrk(HERE))?);
    }
    Ok(rows)
}

/// Requests for each second, where all were answered.
pub fn requests(text: &str) -> Option<f64> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    text.lines().find_map(|line| line.strip_prefix("Requests/sec:"))?.trim().parse().ok()
}

/// How many requests there were.
pub fn number(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

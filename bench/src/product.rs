//! One agent of the product, with directories of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Namespace, output, run};

/// The name of the test host in every spec here.
pub const HOST: &str = "here";

/// An agent that may run. Dropping it takes everything down.
#[derive(Debug)]
pub struct Product<'a> {
    program: PathBuf,
    host: &'a Namespace,
    directory: tempfile::TempDir,
}

impl<'a> Product<'a> {
    /// Nothing runs yet.
    pub fn new(host: &'a Namespace) -> Result<Self> {
        let program = crate::target()?.join("release/hyperspector");
        ensure!(program.exists(), "{} is not there; use bench/run", program.display());
        let directory = tempfile::Builder::new().prefix("hs-bench-").tempdir()?;
        Ok(Self { program, host, directory })
    }

    /// Where the spec is.
    fn spec(&self) -> PathBuf {
        self.directory.path().join("spec.toml")
    }

    /// Writes the spec.
    pub fn write(&self, spec: &str) -> Result<()> {
        Ok(fs::write(self.spec(), spec)?)
    }

    /// A command of the product.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.host.command(&self.program)?;
        command
            .args(["--host", HOST])
            .arg("--state-dir")
            .arg(self.directory.path().join("state"))
            .arg("--run-dir")
            .arg(self.directory.path().join("run"))
            .args(arguments);
        Ok(command)
    }

    /// `up -d`.
    pub fn up(&self) -> Result<Command> {
        let spec = self.spec();
        let mut command = self.command(&["up", "-d"])?;
        command.arg(spec);
        Ok(command)
    }

    /// `down`.
    pub fn down(&self, purge: bool) -> Result<()> {
        run(&mut self.command(if purge { &["down", "--purge"] } else { &["down"] })?)
    }

    /// A command inside a portspace or a server space.
    pub fn exec(&self, name: &str, program: &Path, arguments: &[&str]) -> Result<Command> {
        let mut command = self.command(&["exec", "-T", name, "--"])?;
        command.arg(program).args(arguments);
        Ok(command)
    }

    /// `status --json`.
    pub fn status(&self) -> Result<Value> {
        let text = output(&mut self.command(&["status", "--json"])?)?;
        serde_json::from_str(&text).context("read the status")
    }

    /// The last lines of a portspace's log, with our own notes among them.
    pub fn last_lines(&self, name: &str) -> Result<Vec<String>> {
        let text = output(&mut self.command(&["logs", "--json", "-n", "8", name])?)?;
        let texts = text.lines().map(|line| {
            let line: Value = serde_json::from_str(line).context("read the log")?;
            Ok(line["text"].as_str().unwrap_or_default().to_owned())
        });
        texts.collect()
    }
}

impl Drop for Product<'_> {
    fn drop(&mut self) {
        if self.directory.path().join("run").exists()
            && let Err(error) = self.down(true)
        {
            eprintln!("{error:#}");
        }
    }
}

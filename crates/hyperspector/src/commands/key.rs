//! `hyperspector key`: this host's public keys.

use std::process::ExitCode;

use anyhow::{Context, Result};
use hyperspector_agent::layout::private_dir;
use hyperspector_vpn::keys::SecretKey;

use crate::cli::{Exit, Global};

pub fn run(global: &Global, hyperspectors: &[String]) -> Result<ExitCode> {
    let layout = global.layout()?;
    let is_name = |name: &String| {
        !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if let Some(bad) = hyperspectors.iter().find(|name| !is_name(name)) {
        anyhow::bail!(
            "{bad:?} is no name of a HyperSpector: lower-case letters, digits and hyphens"
        );
    }
    println!("[host.{}]", global.host());
    for name in hyperspectors {
        let path = layout.key(name);
        if let Some(directory) = path.parent() {
            private_dir(directory).with_context(|| format!("make {}", directory.display()))?;
        }
        let key = SecretKey::load_or_create(&path)?;
        println!("key.{name} = \"{}\"", key.public());
    }
    Ok(Exit::Fine.into())
}

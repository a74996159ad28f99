//! `hyperspector key`: this host's public keys, and how they are changed.

use std::process::ExitCode;

use anyhow::Result;
use hyperspector_agent::keys::OwnKeys;

use crate::cli::{Exit, Global, Rotate};

pub fn run(global: &Global, hyperspectors: &[String], rotate: Option<Rotate>) -> Result<ExitCode> {
    let layout = global.layout()?;
    let Rotate::Rotate { hyperspectors: rotated } =
        rotate.unwrap_or(Rotate::Rotate { hyperspectors: Vec::new() });
    let is_name = |name: &String| {
        !name.is_empty()
            && name.len() <= 32
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if let Some(bad) = hyperspectors.iter().chain(&rotated).find(|name| !is_name(name)) {
        anyhow::bail!(
            "{bad:?} is no name of a HyperSpector: lower-case letters, digits and hyphens"
        );
    }
    println!("[host.{}]", global.host());
    for name in hyperspectors {
        println!("{}", OwnKeys::load(&layout, name)?.line(name));
    }
    for name in &rotated {
        println!("{}", OwnKeys::rotate(&layout, name)?.line(name));
    }
    if !rotated.is_empty() {
        eprintln!("{}", WHAT_NEXT.trim_end());
    }
    Ok(Exit::Fine.into())
}

const WHAT_NEXT: &str = "\
Write this line into the spec and run `up` with it on every host, in any order. When `status` here
says that the key was changed, leave the first key out, and run `up` everywhere again.
";

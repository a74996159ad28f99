//! Compiles the BPF programs with clang, for embedding into the crate.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

include!("src/packets/mark.rs");

/// The programs, each `bpf/NAME.bpf.c`.
const PROGRAMS: [&str; 6] = ["ports", "send", "sockets", "syscalls", "transmit", "unix"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-changed=src/packets/mark.rs");
    println!("cargo::rerun-if-env-changed=CLANG");
    for name in PROGRAMS {
        if let Err(error) = compile(name) {
            println!("cargo::error=compile bpf/{name}.bpf.c: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn compile(name: &str) -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let arch = env::var("CARGO_CFG_TARGET_ARCH").map_err(|e| e.to_string())?;
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let status = Command::new(clang)
        .args(["-target", "bpf", "-O2", "-g", "-Wall", "-Werror"])
        .arg(format!("-DHS_MARK={MARK:#x}"))
        // Whose registers a system call's arguments are in.
        .arg(format!("-DHS_{}", arch.to_uppercase()))
        // The BPF target has no header folder of its own: take the machine's.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-c")
        .arg(Path::new("bpf").join(format!("{name}.bpf.c")))
        .arg("-o")
        .arg(out.join(format!("{name}.bpf.o")))
        .status()
        .map_err(|e| format!("run clang (package clang): {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("clang ended with {status}")) }
}

//! The examples are right, and their plans are these: `golden/EXAMPLE.HOST.json`.
//!
//! `BLESS=1 cargo test -p hyperspector-spec` writes what there is; read the difference before it is
//! committed: a plan that changes here restarts portspaces on users' hosts.

use std::fs;
use std::path::{Path, PathBuf};

use hyperspector_spec::Spec;

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn examples() -> Vec<PathBuf> {
    let folder = crate_dir().join("../../examples");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut specs: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    specs.sort();
    specs
}

fn read(path: &Path) -> (String, Spec) {
    let text = fs::read_to_string(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let spec = Spec::parse(&text).unwrap_or_else(|errors| panic!("{}", errors.lines(&name, &text)));
    (path.file_stem().unwrap().to_string_lossy().into_owned(), spec)
}

#[test]
fn every_example_gives_its_golden_plans() {
    let examples = examples();
    assert!(examples.len() >= 2);
    for (name, spec) in examples.iter().map(|path| read(path)) {
        for host in spec.hosts() {
            let plan = serde_json::to_string_pretty(&spec.plan(host).unwrap()).unwrap() + "\n";
            let golden = crate_dir().join(format!("tests/golden/{name}.{host}.json"));
            if std::env::var_os("BLESS").is_some() {
                fs::write(&golden, &plan).unwrap();
            }
            assert_eq!(plan, fs::read_to_string(&golden).unwrap(), "{}", golden.display());
        }
    }
}

#[test]
fn the_reference_names_every_key_of_the_examples() {
    let reference = fs::read_to_string(crate_dir().join("../../docs/spec.md")).unwrap();
    for path in examples() {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
        let keys = lines.filter_map(|line| line.split_once(" = ")).map(|(key, _)| key);
        for key in keys.filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')) {
            assert!(reference.contains(&format!("`{key}`")), "{key} is not in docs/spec.md");
        }
    }
}

#[test]
fn the_examples_of_the_reference_are_right() {
    let reference = fs::read_to_string(crate_dir().join("../../docs/spec.md")).unwrap();
    let blocks: Vec<_> = reference.split("```toml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let text = block.split("```").next().unwrap();
        Spec::parse(text).unwrap_or_else(|errors| panic!("{}", errors.lines("spec.md", text)));
    }
}

//! The changes window on a real kernel. Needs root. File systems are mounted in a mount namespace of the
//! test's own, so that nothing can be left behind.
//!
//! This program is also the worker.

#[path = "../harness/mod.rs"]
mod harness;
mod lab;
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use hyperspector_window::changes;
use tests::*;

const TESTS: &[harness::Test] = &[
    ("what_happens_to_files_is_told", what_happens_to_files_is_told),
    ("paths_of_any_bytes", paths_of_any_bytes),
    ("a_renamed_directory_stands_for_all_below", a_renamed_directory_stands_for_all_below),
    ("only_what_is_in_the_tree_is_told", only_what_is_in_the_tree_is_told),
    ("every_name_of_a_file_is_found", every_name_of_a_file_is_found),
    ("a_mapped_write_is_told_in_the_end", a_mapped_write_is_told_in_the_end),
    ("a_path_too_long_is_told_by_a_directory_above", a_path_too_long_is_told_by_a_directory_above),
    ("a_file_that_is_written_to_often_costs_little", a_file_that_is_written_to_often),
    ("an_overflow_means_scan_all", an_overflow_means_scan_all),
    ("a_killed_worker_means_scan_all", a_killed_worker_means_scan_all),
    ("a_full_disk_means_scan_all_until_there_is_room", a_full_disk_means_scan_all),
    ("deletions_in_an_overlay_are_listed", deletions_in_an_overlay_are_listed),
    ("mounts_come_and_go", mounts_come_and_go),
    ("the_worker_holds_little", the_worker_holds_little),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["__worker", "journal"] => changes::worker_main(),
        _ => run(&args),
    }
}

/// Runs the tests whose names contain one of the words given.
fn run(args: &[String]) -> ExitCode {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    lab::own_mounts();
    harness::status(harness::run(args, TESTS, Some(Duration::from_secs(60))))
}

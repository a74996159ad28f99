//! The processes window on a real kernel. Needs root. Servers and portspaces are processes in
//! namespaces of their own, which go with the test.

mod facts;
#[path = "../harness/mod.rs"]
mod harness;
mod lab;
mod members;
mod procfs;

use std::process::ExitCode;

const TESTS: &[harness::Test] = &[
    ("a_procfs_shows_the_namespace_and_what_is_listed", procfs::shows_the_namespace),
    ("nothing_stays_in_the_namespace", procfs::nothing_stays_in_the_namespace),
    ("what_is_covered_stays_covered", procfs::what_is_covered_stays_covered),
    ("a_portspace_finds_and_loses_a_server", procfs::a_portspace_finds_and_loses_a_server),
    ("programs_find_a_server_in_proc", procfs::programs_find_a_server_in_proc),
    ("members_come_and_go", members::come_and_go),
    ("another_process_of_the_same_number_is_not_shown", members::start_times_count),
    ("a_crowd_is_bounded", members::a_crowd_is_bounded),
    ("members_of_a_cgroup_are_found", members::of_a_cgroup),
    ("facts_tell_what_the_view_refuses", facts::tell_what_the_view_refuses),
    ("facts_follow_changes", facts::follow_changes),
    ("hostile_names_are_only_names", facts::hostile_names),
    ("the_facts_worker_holds_little", facts::the_worker_holds_little),
    ("a_reader_that_hangs_is_replaced", facts::a_reader_that_hangs_is_replaced),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["__worker", "procfs"] => hyperspector_window::processes::procfs::worker_main(),
        ["__worker", "facts"] => hyperspector_window::processes::facts::worker_main(),
        _ => run(&args),
    }
}

/// Runs the tests whose names contain one of the words given.
fn run(args: &[String]) -> ExitCode {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    harness::status(harness::run(args, TESTS, None))
}

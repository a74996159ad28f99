//! The packet window on a real kernel. Needs root. What is needed is made in network namespaces
//! and a mount namespace of the test's own, so that nothing can be left behind.
//!
//! ```text
//!   host namespace            peer namespace          portspace (own user namespace)
//!   lo                                                seccomp filter from rules()
//!   w0 (watched) ------------ w1                      asks the broker
//!   x0 ---------------------- x1
//!   later ones -------------- later ones
//! ```
//!
//! This program is also the guard, the broker, and the portspace's program.

mod child;
#[path = "../harness/mod.rs"]
mod harness;
mod lab;
mod packets;
mod unix;

use std::process::ExitCode;
use std::time::Duration;

use hyperspector_window::packets::{broker, guard};

const TESTS: &[harness::Test] = &[
    ("receives_and_cannot_send", packets::receives_and_cannot_send),
    ("watches_only_its_interfaces", packets::watches_only_its_interfaces),
    ("bad_arguments_fail_as_in_the_kernel", packets::bad_arguments_fail_as_in_the_kernel),
    ("sending_options_are_refused", packets::sending_options_are_refused),
    ("rings_are_limited", packets::rings_are_limited),
    ("fanout_groups_are_private", packets::fanout_groups_are_private),
    ("later_interfaces_are_guarded", packets::later_interfaces_are_guarded),
    ("a_burst_of_interfaces_is_guarded", packets::a_burst_of_interfaces_is_guarded),
    ("death_of_the_guard_opens_nothing", packets::death_of_the_guard_opens_nothing),
    ("a_new_broker_takes_over", packets::a_new_broker_takes_over),
    ("clsact_guards_too", packets::clsact_guards_too),
    ("tcpdump_runs", packets::tcpdump_runs),
    ("reaction", packets::reaction),
    ("workers_hold_little", packets::workers_hold_little),
    ("probe_finds_this_kernel_fit", packets::probe_finds_this_kernel_fit),
    ("unix_sockets_are_bound_as_the_caller", unix::bound_as_the_caller),
    ("unix_guard_refuses_windows_only", unix::guard_refuses_windows_only),
    ("a_connection_that_waits_holds_up_nobody", unix::waiting_holds_up_nobody),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["__worker", "guard"] => guard::worker_main(),
        ["__worker", "broker"] => broker::worker_main(),
        ["__child", ..] => child::start(),
        ["__portspace", ..] => child::serve(),
        _ => run(&args),
    }
}

/// Those that need Linux 6.7: left out where `HYPERSPECTOR_TEST_ALLOW_MISSING` lists `unix-guard`.
const OF_THE_UNIX_GUARD: &[&str] =
    &["unix_guard_refuses_windows_only", "a_connection_that_waits_holds_up_nobody"];

/// Runs the tests whose names contain one of the words given.
fn run(args: &[String]) -> ExitCode {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    lab::own_mounts();
    let missing = std::env::var("HYPERSPECTOR_TEST_ALLOW_MISSING").unwrap_or_default();
    let guarded = !missing.split(',').any(|what| what == "unix-guard");
    let is_wanted = |name: &str| guarded || !OF_THE_UNIX_GUARD.contains(&name);
    let tests: Vec<_> = TESTS.iter().copied().filter(|(name, _)| is_wanted(name)).collect();
    harness::status(harness::run(args, &tests, Some(Duration::from_secs(120))))
}

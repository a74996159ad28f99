//! The socket window on a real kernel. Needs root. Everything is in directories of the test's own.
//!
//! ```text
//!   writers (threads, and this program again)
//!      └─► home/server/…  ──► tee ──► home/reader/…  readers (threads, and this program again)
//!             └── keeper ──────┘
//! ```
//!
//! This program is also the keeper, the tee, and a reader that can be killed.

mod datagrams;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod lab;
mod observed;
mod relayed;
mod streams;

use std::process::ExitCode;
use std::time::Duration;

use hyperspector_window::sockets::{keeper, tee};

const TESTS: &[harness::Test] = &[
    ("every_reader_gets_everything", datagrams::every_reader_gets_everything),
    ("a_reader_that_comes_later", datagrams::a_reader_that_comes_later),
    ("killing_the_tee_loses_nothing", datagrams::killing_the_tee_loses_nothing),
    ("killing_the_keeper_loses_nothing", datagrams::killing_the_keeper_loses_nothing),
    (
        "a_keeper_that_knows_no_seats_repeats_nothing",
        datagrams::a_keeper_that_knows_no_seats_repeats_nothing,
    ),
    ("killing_the_reader_loses_nothing", datagrams::killing_the_reader_loses_nothing),
    (
        "a_reader_that_is_back_at_once_gets_what_was_not_read",
        datagrams::a_reader_that_is_back_at_once_gets_what_was_not_read,
    ),
    ("a_stopped_reader_stops_nobody", datagrams::a_stopped_reader_stops_nobody),
    ("nobody_is_there", datagrams::nobody_is_there),
    ("streams_arrive_whole", streams::streams_arrive_whole),
    ("a_reader_that_closes_gets_nothing_twice", streams::a_reader_that_closes_gets_nothing_twice),
    ("connections_outlive_the_tee", streams::connections_outlive_the_tee),
    ("packets_keep_their_bounds", streams::packets_keep_their_bounds),
    ("a_killed_stream_reader_gets_the_rest", streams::a_killed_reader_gets_the_rest),
    ("a_receiver_is_observed", observed::a_receiver_is_observed),
    ("no_observed_message_waits_for_the_next", observed::no_message_waits_for_the_next),
    ("observed_messages_outlive_the_tee", observed::messages_outlive_the_tee),
    ("an_observer_is_in_nobodys_way", observed::in_nobodys_way),
    ("a_receiver_of_connections_has_everything_first", relayed::has_everything_first),
    ("a_receiver_that_takes_its_time", relayed::takes_its_time),
    ("a_receiver_behind_a_dead_file_system", relayed::behind_a_dead_file_system),
    ("relayed_connections_outlive_the_tee", relayed::outlive_the_tee),
    ("the_receiver_sees_who_the_writer_is", relayed::sees_who_the_writer_is),
    ("workers_hold_nothing", hostile::workers_hold_nothing),
    ("a_flood_of_connections", hostile::a_flood_of_connections),
    ("descriptors_and_bytes_out_of_band", hostile::descriptors_and_bytes_out_of_band),
    ("a_descriptor_that_lingers", hostile::a_descriptor_that_lingers),
    ("a_stopped_tee_goes_on", hostile::a_stopped_tee_goes_on),
    ("readers_that_cheat", hostile::readers_that_cheat),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["__worker", "keeper"] => keeper::worker_main(),
        ["__worker", "tee"] => tee::worker_main(),
        ["__reader", path, out] => lab::reader_main(path, out),
        _ => run(&args),
    }
}

/// Runs the tests whose names contain one of the words given.
fn run(args: &[String]) -> ExitCode {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    // Whatever becomes of a keeper, its tee is a child of ours then.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let failed = harness::run(args, TESTS, Some(Duration::from_secs(120)));
    if failed > 0 {
        // A keeper that dies leaves its tee to its parent.
        (0..20).for_each(|_| lab::end_workers());
    }
    harness::status(failed)
}

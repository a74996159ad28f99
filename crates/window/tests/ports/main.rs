//! The port guard on a real kernel. Needs root. What is needed is made in network namespaces and a
//! mount namespace of the test's own, so that nothing can be left behind but cgroups, which are
//! removed.
//!
//! ```text
//!   host namespace                                          peer namespace
//!   lo                                                      lo
//!   h0 10.9.0.1 fd09::1 fe80::1 --------------------------- p0 10.9.0.2 fd09::2 fe80::2
//!   base: this process                                      this process
//!   server: a child in a cgroup with the guard, root of
//!           a user namespace of its own
//! ```
//!
//! What the guard is there to prevent is always tried in a cgroup without it too, where it must work.

mod binds;
mod deny;
#[path = "../harness/mod.rs"]
mod harness;
mod keeping;
mod lab;
mod listeners;
mod server;

use std::process::ExitCode;

const TESTS: &[harness::Test] = &[
    ("registered_ports_are_bound_and_others_refused", binds::registered_or_refused),
    ("low_ports_need_no_capability", binds::low_ports),
    ("no_option_binds_another_port", binds::options),
    ("a_registered_port_of_another_is_out_of_reach", binds::of_another),
    ("clients_work", binds::clients),
    ("a_listener_on_any_port_is_heard_on_loopback_only", listeners::on_any_port),
    ("a_registered_listener_is_reached", listeners::registered_ones),
    ("data_in_the_first_packet_is_not_heard", listeners::fast_open),
    ("a_listener_is_shut_from_its_first_moment", listeners::first_moment),
    ("denied_services_are_out_of_reach", deny::streams),
    ("denied_services_get_no_datagram", deny::datagrams),
    ("only_this_host_is_denied", deny::others),
    ("other_sockets_are_refused", deny::other_sockets),
    ("refusals_are_counted", keeping::counted),
    ("ports_change_without_a_gap", keeping::changed),
    ("a_guard_replaces_another_without_a_gap", keeping::replaced),
    ("removed_it_is_gone", keeping::removed),
    ("errors_say_what_would_be_right", keeping::errors),
];

fn main() -> ExitCode {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    lab::own_mounts();
    let args: Vec<String> = std::env::args().skip(1).collect();
    harness::status(harness::run(&args, TESTS, None))
}

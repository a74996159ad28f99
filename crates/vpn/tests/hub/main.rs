//! A hub between two portspaces and a VPN, each in a network namespace of the test's own. Needs root.
//!
//! ```text
//!   a 10.66.0.2 ---+
//!                  hub --- vpn0 ~~~ remote 10.66.0.9 (stands for the other hosts)
//!   b 10.66.0.3 ---+
//! ```
//! `outside` is where the VPN's interface comes from: the base system of a host.

mod addresses;
mod lab;
mod rules;
mod shape;

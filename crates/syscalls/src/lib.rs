//! What a record of a system call means, and how it is written.
//!
//! The tracer's BPF program knows hardly a call by name; what it captures, what that means and how it
//! reads is data and code here. All of it is pure.

pub mod numbers;
pub mod record;
pub mod rules;
pub mod table;

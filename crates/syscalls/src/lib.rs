//! What a record of a system call means, and how it is written.
//!
//! The tracer's BPF program knows hardly a call by name; what it captures, what that means and how it
//! reads is data and code here. All of it is pure.

pub mod decode;
pub mod filter;
pub mod layout;
mod memory;
pub mod named;
pub mod names;
pub mod numbers;
pub mod record;
pub mod rules;
pub mod stream;
pub mod summary;
pub mod table;
pub mod text;
pub mod value;

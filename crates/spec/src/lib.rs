//! What the operator writes, and what it means: parse → check → plan, all pure.
//!
//! Nothing in this crate touches the system: a spec is text, a plan is a value. The same text on
//! every host gives plans that agree with each other.

pub mod plan;

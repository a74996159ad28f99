//! One VPN for each HyperSpector and host: keys, the kernel's WireGuard where there is one, the
//! embedded data path where there is not.
//!
//! Keys and the encrypted side stay outside every portspace: the UDP socket is the host's, and just
//! the tunnel's interface is moved into the HyperSpector's hub.

pub mod backend;
pub mod control;
pub mod device;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod hub;
pub mod kernel;
pub mod keys;
pub mod names;
mod offload;
pub mod peer;
pub mod preshared;
pub mod status;
pub mod tun;

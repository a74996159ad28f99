//! What rustix has in single steps (capabilities(7)).

use std::io;

use rustix::thread::{
    CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set,
};

/// Takes every capability that the kernel knows out of this thread's bounding set, but for `keep`:
/// no program that it executes can get them again.
pub fn limit_bounding_set(keep: CapabilitySet) -> io::Result<()> {
    for bit in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !keep.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

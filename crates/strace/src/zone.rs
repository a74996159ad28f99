//! How far local time is from UTC.

/// How many seconds local time is before UTC now.
pub fn seconds() -> i64 {
    // SAFETY: it writes nothing where it is given no place to.
    let now = unsafe { libc::time(std::ptr::null_mut()) };
    // SAFETY: all fields are numbers, but one that is an address and may be null.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both point at values of these types that live for the call.
    let made = unsafe { libc::localtime_r(&raw const now, &raw mut local) };
    if made.is_null() { 0 } else { local.tm_gmtoff }
}

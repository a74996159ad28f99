//! Records that the tracer itself makes, for its readers.

use super::{Malformed, Reader};

/// What a stream begins with; it comes again when the clock has been set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start<'a> {
    /// The version of the stream.
    pub version: u32,
    /// Whose calling conventions are native: see [`machine`].
    pub machine: u32,
    /// What CLOCK_REALTIME was, in nanoseconds, when CLOCK_MONOTONIC was 0.
    pub epoch: i64,
    /// Which tracer this is: another one knows files by other identities.
    pub tracer: u64,
    /// How many bytes may wait for this reader.
    pub queue: u32,
    /// The server's name.
    pub server: &'a [u8],
}

/// Machines, by the numbers that ELF has for them.
pub mod machine {
    /// 64-bit x86.
    pub const X86_64: u32 = 62;
    /// 64-bit Arm.
    pub const AARCH64: u32 = 183;
    /// That which this program is for.
    pub const NATIVE: u32 = if cfg!(target_arch = "aarch64") { AARCH64 } else { X86_64 };
}

/// What follows the head of a START record, so that nothing else is taken for one.
pub(crate) const MAGIC: [u8; 8] = *b"HSTRACE\0";

pub(super) fn start<'a>(rest: &mut Reader<'a>) -> Result<Start<'a>, Malformed> {
    if rest.array()? != MAGIC {
        return Err(Malformed::Magic);
    }
    let (version, machine) = (rest.u32()?, rest.u32()?);
    let (epoch, tracer) = (rest.u64()?.cast_signed(), rest.u64()?);
    let (queue, length) = (rest.u32()?, rest.u32()?);
    let server = rest.take(length as usize)?;
    Ok(Start { version, machine, epoch, tracer, queue, server })
}

/// A text after its length.
pub(super) fn text<'a>(rest: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let length = rest.u64()?;
    rest.take(usize::try_from(length).unwrap_or(usize::MAX))
}

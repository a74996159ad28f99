//! What structures look like in memory.
//!
//! Sources: include/uapi of the kernel, and the man pages. Field names are those of the structures,
//! as strace(1) writes them.

pub mod descriptors;
pub mod files;
pub mod ipc;
pub mod processes;
pub mod signals;
pub mod terminal;
pub mod time;

use crate::names::Set;

/// Whether this is for x86-64, where a few structures are unlike those of all other architectures.
pub(crate) const IS_X86: bool = cfg!(target_arch = "x86_64");

/// A piece of memory that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Fields at fixed places.
    Fields(&'static Layout),
    /// struct pollfd
    Poll,
    /// Two descriptors.
    TwoFds,
    /// What became of a child.
    WaitStatus,
    /// siginfo_t
    SignalInfo,
    /// The kernel's struct sigaction.
    SignalAction,
    /// struct sigevent
    SignalEvent,
    /// struct clone_args
    CloneArgs,
    /// Two struct __user_cap_data_struct.
    Capabilities,
    /// struct mmsghdr
    Message,
    /// The kernel's struct termios.
    Terminal,
}

impl Shape {
    /// Its size in bytes.
    pub const fn size(self) -> u16 {
        match self {
            Self::Fields(layout) => layout.size,
            Self::TwoFds | Self::Poll => 8,
            Self::WaitStatus => 4,
            Self::SignalInfo => 128,
            Self::SignalAction => 32,
            Self::SignalEvent | Self::Message => 64,
            Self::CloneArgs => 88,
            Self::Capabilities => 24,
            Self::Terminal => 36,
        }
    }
}

/// A structure.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its size in bytes.
    pub size: u16,
    /// Its fields; a single one without a name is written by its value alone.
    pub fields: &'static [Field],
}

/// A field of a structure.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Where it is.
    pub at: u16,
    /// What it is.
    pub cell: Cell,
    /// When it is told.
    pub only: Only,
}

/// When a field is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// Always.
    Always,
    /// Where all shall be told; otherwise, dots stand for it.
    Verbose,
    /// Where the file mode at that place is a device's.
    Device(u16),
    /// Where it is not.
    NoDevice(u16),
}

/// What a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// A signed number of so many bytes.
    Signed(u8),
    /// An unsigned number.
    Unsigned(u8),
    /// A number in base 16.
    Hex(u8),
    /// An address.
    Address,
    /// A descriptor.
    Fd,
    /// Flags in so many bytes.
    Flags(u8, &'static Set),
    /// One of several names.
    OneOf(u8, &'static Set),
    /// A file's type and permissions.
    Mode(u8),
    /// Permissions.
    Octal(u8),
    /// A device's number.
    Device(u8),
    /// A limit.
    Limit,
    /// A signal in four bytes.
    Signal,
    /// Hundredths of a second.
    Ticks,
    /// A set of signals.
    Signals,
    /// Text in so many bytes, up to a zero.
    Text(u16),
    /// Another structure.
    Struct(&'static Layout),
    /// As many of the same as are told.
    Array(&'static Cell, u8),
    /// How open(2) opens, in eight bytes.
    Open,
    /// Nanoseconds, or one of the two special values of utimensat(2).
    Nanoseconds,
}

impl Cell {
    /// Its size in bytes.
    pub const fn size(&self) -> usize {
        match self {
            Self::Signed(size)
            | Self::Unsigned(size)
            | Self::Hex(size)
            | Self::Flags(size, _)
            | Self::OneOf(size, _)
            | Self::Mode(size)
            | Self::Octal(size)
            | Self::Device(size) => *size as usize,
            Self::Fd | Self::Signal => 4,
            Self::Address
            | Self::Limit
            | Self::Signals
            | Self::Nanoseconds
            | Self::Open
            | Self::Ticks => 8,
            Self::Text(size) => *size as usize,
            Self::Struct(layout) => layout.size as usize,
            Self::Array(cell, count) => cell.size() * *count as usize,
        }
    }
}

/// A field that is always told.
const fn f(name: &'static str, at: u16, cell: Cell) -> Field {
    Field { name, at, cell, only: Only::Always }
}

/// A field that is told in full output only.
const fn v(name: &'static str, at: u16, cell: Cell) -> Field {
    Field { name, at, cell, only: Only::Verbose }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(layout: &Layout) {
        for field in layout.fields {
            let end = usize::from(field.at) + field.cell.size();
            assert!(end <= usize::from(layout.size), "{layout:?}");
            if let Cell::Struct(inner) = field.cell {
                check(inner);
            }
        }
    }

    #[test]
    fn fields_are_inside_their_structures() {
        for call in crate::table::all() {
            for arg in call.args {
                if let crate::table::Kind::To(Shape::Fields(layout), _)
                | crate::table::Kind::Many(Shape::Fields(layout), ..) = arg.kind
                {
                    check(layout);
                }
            }
        }
    }

    #[test]
    fn sizes_are_the_kernel_s() {
        assert_eq!(usize::from(files::STAT.size), size_of::<libc::stat>());
        assert_eq!(usize::from(files::STATX.size), size_of::<libc::statx>());
        assert_eq!(usize::from(files::STATFS.size), size_of::<libc::statfs>());
        assert_eq!(usize::from(processes::RUSAGE.size), size_of::<libc::rusage>());
        assert_eq!(usize::from(processes::SYSINFO.size), size_of::<libc::sysinfo>());
        assert_eq!(usize::from(processes::UTSNAME.size), size_of::<libc::utsname>());
        assert_eq!(usize::from(time::TIMEX.size), size_of::<libc::timex>());
        assert_eq!(usize::from(signals::STACK.size), size_of::<libc::stack_t>());
        assert_eq!(usize::from(descriptors::EPOLL_EVENT.size), size_of::<libc::epoll_event>());
        assert_eq!(usize::from(ipc::SHARED.size), size_of::<libc::shmid_ds>());
        assert_eq!(usize::from(ipc::QUEUE.size), size_of::<libc::mq_attr>());
        assert_eq!(usize::from(ipc::MESSAGES.size), size_of::<libc::msqid_ds>());
    }
}

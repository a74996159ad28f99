//! Files' properties.

use super::Cell::{Array, Device, Flags, Hex, Mode, OneOf, Signed, Struct, Unsigned};
use super::{Field, IS_X86, Layout, Only, f, v};
use crate::names::files as n;

/// Where the places of struct stat differ.
const fn at(x86: u16, other: u16) -> u16 {
    if IS_X86 { x86 } else { other }
}

const STAT_MODE: u16 = at(24, 16);

/// struct stat
pub const STAT: Layout = Layout {
    size: at(144, 128),
    fields: &[
        v("st_dev", 0, Device(8)),
        v("st_ino", 8, Unsigned(8)),
        f("st_mode", STAT_MODE, Mode(4)),
        v("st_nlink", at(16, 20), Unsigned(if IS_X86 { 8 } else { 4 })),
        v("st_uid", at(28, 24), Unsigned(4)),
        v("st_gid", at(32, 28), Unsigned(4)),
        v("st_blksize", 56, Unsigned(4)),
        v("st_blocks", 64, Unsigned(8)),
        Field { name: "st_rdev", at: at(40, 32), cell: Device(8), only: Only::Device(STAT_MODE) },
        Field { name: "st_size", at: 48, cell: Unsigned(8), only: Only::NoDevice(STAT_MODE) },
        v("st_atime", 72, Signed(8)),
        v("st_atime_nsec", 80, Unsigned(8)),
        v("st_mtime", 88, Signed(8)),
        v("st_mtime_nsec", 96, Unsigned(8)),
        v("st_ctime", 104, Signed(8)),
        v("st_ctime_nsec", 112, Unsigned(8)),
    ],
};

/// struct statx_timestamp
const STATX_TIME: Layout =
    Layout { size: 16, fields: &[f("tv_sec", 0, Signed(8)), f("tv_nsec", 8, Unsigned(4))] };

/// struct statx
pub const STATX: Layout = Layout {
    size: 256,
    fields: &[
        f("stx_mask", 0, Flags(4, &n::STATX)),
        v("stx_blksize", 4, Unsigned(4)),
        f("stx_attributes", 8, Flags(8, &n::STATX_ATTRIBUTES)),
        v("stx_nlink", 16, Unsigned(4)),
        v("stx_uid", 20, Unsigned(4)),
        v("stx_gid", 24, Unsigned(4)),
        f("stx_mode", 28, Mode(2)),
        v("stx_ino", 32, Unsigned(8)),
        f("stx_size", 40, Unsigned(8)),
        v("stx_blocks", 48, Unsigned(8)),
        v("stx_attributes_mask", 56, Flags(8, &n::STATX_ATTRIBUTES)),
        v("stx_atime", 64, Struct(&STATX_TIME)),
        v("stx_btime", 80, Struct(&STATX_TIME)),
        v("stx_ctime", 96, Struct(&STATX_TIME)),
        v("stx_mtime", 112, Struct(&STATX_TIME)),
        v("stx_rdev_major", 128, Unsigned(4)),
        v("stx_rdev_minor", 132, Unsigned(4)),
        v("stx_dev_major", 136, Unsigned(4)),
        v("stx_dev_minor", 140, Unsigned(4)),
        v("stx_mnt_id", 144, Hex(8)),
    ],
};

const FSID: Layout = Layout { size: 8, fields: &[f("val", 0, Array(&Hex(4), 2))] };

/// struct statfs
pub const STATFS: Layout = Layout {
    size: 120,
    fields: &[
        f("f_type", 0, OneOf(8, &n::FILE_SYSTEM)),
        f("f_bsize", 8, Unsigned(8)),
        f("f_blocks", 16, Unsigned(8)),
        f("f_bfree", 24, Unsigned(8)),
        f("f_bavail", 32, Unsigned(8)),
        f("f_files", 40, Unsigned(8)),
        f("f_ffree", 48, Unsigned(8)),
        f("f_fsid", 56, Struct(&FSID)),
        f("f_namelen", 64, Unsigned(8)),
        f("f_frsize", 72, Unsigned(8)),
        f("f_flags", 80, Flags(8, &n::FILE_SYSTEM_FLAGS)),
    ],
};

/// struct mount_attr
pub const MOUNT_ATTR: Layout = Layout {
    size: 32,
    fields: &[
        f("attr_set", 0, Flags(8, &n::MOUNT_ATTRIBUTES)),
        f("attr_clr", 8, Flags(8, &n::MOUNT_ATTRIBUTES)),
        f("propagation", 16, OneOf(8, &n::MOUNT)),
        f("userns_fd", 24, Unsigned(8)),
    ],
};

/// struct open_how
pub const OPEN_HOW: Layout = Layout {
    size: 24,
    fields: &[
        f("flags", 0, super::Cell::Open),
        f("mode", 8, super::Cell::Octal(8)),
        f("resolve", 16, Flags(8, &n::RESOLVE)),
    ],
};

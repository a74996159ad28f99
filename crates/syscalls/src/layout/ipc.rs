//! System V objects and message queues.

use super::Cell::{Flags, Octal, Signed, Struct, Unsigned};
use super::{Layout, f};
use crate::names::ipc as n;

/// struct ipc64_perm, of which the kernel tells these.
const PERMISSIONS: Layout = Layout {
    size: 48,
    fields: &[
        f("uid", 4, Unsigned(4)),
        f("gid", 8, Unsigned(4)),
        f("mode", 20, Octal(2)),
        f("key", 0, Unsigned(4)),
        f("cuid", 12, Unsigned(4)),
        f("cgid", 16, Unsigned(4)),
    ],
};

/// struct shmid64_ds
pub const SHARED: Layout = Layout {
    size: 112,
    fields: &[
        f("shm_perm", 0, Struct(&PERMISSIONS)),
        f("shm_segsz", 48, Unsigned(8)),
        f("shm_cpid", 80, Signed(4)),
        f("shm_lpid", 84, Signed(4)),
        f("shm_nattch", 88, Unsigned(8)),
        f("shm_atime", 56, Unsigned(8)),
        f("shm_dtime", 64, Unsigned(8)),
        f("shm_ctime", 72, Unsigned(8)),
    ],
};

/// struct msqid64_ds
pub const MESSAGES: Layout = Layout {
    size: 120,
    fields: &[
        f("msg_perm", 0, Struct(&PERMISSIONS)),
        f("msg_stime", 48, Unsigned(8)),
        f("msg_rtime", 56, Unsigned(8)),
        f("msg_ctime", 64, Unsigned(8)),
        f("msg_qnum", 80, Unsigned(8)),
        f("msg_qbytes", 88, Unsigned(8)),
        f("msg_lspid", 96, Signed(4)),
        f("msg_lrpid", 100, Signed(4)),
    ],
};

/// struct sembuf
pub const OPERATION: Layout = Layout {
    size: 6,
    fields: &[
        f("sem_num", 0, Unsigned(2)),
        f("sem_op", 2, Signed(2)),
        f("sem_flg", 4, Flags(2, &n::SEMAPHORE_OPERATION)),
    ],
};

/// struct mq_attr
pub const QUEUE: Layout = Layout {
    size: 64,
    fields: &[
        f("mq_flags", 0, Flags(8, &crate::names::files::OPEN)),
        f("mq_maxmsg", 8, Signed(8)),
        f("mq_msgsize", 16, Signed(8)),
        f("mq_curmsgs", 24, Signed(8)),
    ],
};

//! System V objects, message queues, keys.

use super::Kind::{
    Fd, Flags, Hex, In, InTyped, Int, Key, Long, Many, Mode, OneOf, Open, Out, OutTyped, Pointer,
    Size, Text, To, Uint,
};
use super::{Arg, Class, Count, Outcome, Syscall, Way};
use crate::layout::Shape::{Fields, SignalEvent};
use crate::layout::{descriptors as d, ipc as l, time};
use crate::names::ipc as n;

calls! {
    shmget(key: Key, size: Size, shmflg: Flags(&n::SHARED_GET)) -> Number [Ipc];
    shmat(shmid: Int, shmaddr: Pointer, shmflg: Flags(&n::ATTACH)) -> Pointer [Ipc Memory];
    shmdt(shmaddr: Pointer) -> Zero [Ipc Memory];
    shmctl(shmid: Int, cmd: OneOf(&n::SHARED_COMMAND), buf: To(Fields(&l::SHARED), Way::Out)) -> Number [Ipc];
    semget(key: Key, nsems: Int, semflg: Flags(&n::GET)) -> Number [Ipc];
    semop(semid: Int, sops: Many(Fields(&l::OPERATION), Way::In, Count::Of(2)), nsops: Size) -> Zero [Ipc];
    semtimedop(semid: Int, sops: Many(Fields(&l::OPERATION), Way::In, Count::Of(2)), nsops: Size, timeout: To(Fields(&time::TIMESPEC), Way::In)) -> Zero [Ipc];
    semctl(semid: Int, semnum: Int, cmd: OneOf(&n::SEMAPHORE_COMMAND), arg: Pointer) -> Number [Ipc];
    msgget(key: Key, msgflg: Flags(&n::GET)) -> Number [Ipc];
    msgsnd(msqid: Int, msgp: InTyped(2), msgsz: Size, msgflg: Flags(&n::QUEUE)) -> Zero [Ipc];
    msgrcv(msqid: Int, msgp: OutTyped, msgsz: Size, msgtyp: Long, msgflg: Flags(&n::QUEUE)) -> Number [Ipc];
    msgctl(msqid: Int, cmd: OneOf(&n::COMMAND), buf: To(Fields(&l::MESSAGES), Way::Out)) -> Number [Ipc];
    mq_open(name: Text, oflag: Open, mode: Mode, attr: To(Fields(&l::QUEUE), Way::In)) -> Fd [Descriptor];
    mq_unlink(name: Text) -> Zero [];
    mq_timedsend(mqdes: Fd, msg_ptr: In(2), msg_len: Size, msg_prio: Uint, abs_timeout: To(Fields(&time::TIMESPEC), Way::In)) -> Zero [Descriptor];
    mq_timedreceive(mqdes: Fd, msg_ptr: Out, msg_len: Size, msg_prio: To(Fields(&d::UINT), Way::Out), abs_timeout: To(Fields(&time::TIMESPEC), Way::In)) -> Number [Descriptor];
    mq_notify(mqdes: Fd, sevp: To(SignalEvent, Way::In)) -> Zero [Descriptor];
    mq_getsetattr(mqdes: Fd, newattr: To(Fields(&l::QUEUE), Way::In), oldattr: To(Fields(&l::QUEUE), Way::Out)) -> Zero [Descriptor];
    add_key(kind: Text, description: Text, payload: In(3), plen: Size, keyring: OneOf(&n::KEYRING)) -> Number [];
    request_key(kind: Text, description: Text, callout_info: Text, dest_keyring: OneOf(&n::KEYRING)) -> Number [];
    keyctl(operation: OneOf(&n::KEYCTL), arg2: Hex, arg3: Hex, arg4: Hex, arg5: Hex) -> Number [Default];
}

//! The program in the portspace: does what the test tells it, and reports what came of it.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};

use hyperspector_sys::channel::Channel;
use hyperspector_sys::seccomp_notify;
use hyperspector_window::packets::{compile, rules, unix_guard};
use serde::{Deserialize, Serialize};

/// What the test asks for. Descriptors are the child's own numbers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Do {
    Socket(i32, i32, i32),
    Bind(RawFd, Vec<u8>),
    /// With a pointer and a length that may be wild.
    BindWild(RawFd, u64, u32),
    Connect(RawFd, Vec<u8>),
    Listen(RawFd, i32),
    Set(RawFd, i32, i32, Vec<u8>),
    SetWild(RawFd, i32, i32, u64, u32),
    Get(RawFd, i32, i32),
    /// Waits so many milliseconds for a packet.
    Receive(RawFd, i32),
    /// Sends a frame to an address.
    Send(RawFd, Vec<u8>, Vec<u8>),
    Map(RawFd, usize),
    Close(RawFd),
    Flags(RawFd),
    /// Runs a program for at most so many seconds; its output.
    Run(u64, Vec<String>),
    Become(u32),
}

/// What came of it: a number and bytes, or an errno.
pub type Outcome = Result<(i64, Vec<u8>), i32>;

const CHANNEL: RawFd = 3;

fn channel() -> Channel {
    // SAFETY: the test passes the channel as descriptor 3, and each of the two programs that run
    // one after the other takes it once.
    Channel::new(unsafe { UnixStream::from_raw_fd(CHANNEL) })
}

/// First stage: gets a user namespace, and runs the second in it: a program has the user namespace
/// in which it was started.
pub fn start() -> ExitCode {
    let channel = channel();
    // SAFETY: only the user namespace changes, and there is one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) }.unwrap();
    channel.send(&"unshared", &[]).unwrap();
    channel.receive::<String>().unwrap().unwrap();
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(gid(0), gid(0), gid(0)).unwrap();
    rustix::thread::set_thread_res_uid(uid(0), uid(0), uid(0)).unwrap();
    let program = std::env::current_exe().unwrap();
    let program = CString::new(program.as_os_str().as_bytes()).unwrap();
    let args = [program.as_ptr(), c"__portspace".as_ptr(), std::ptr::null()];
    // SAFETY: the program's path and the null-ended list of arguments live across the call.
    unsafe { libc::execv(program.as_ptr(), args.as_ptr()) };
    panic!("exec: {}", std::io::Error::last_os_error());
}

fn uid(raw: u32) -> rustix::thread::Uid {
    rustix::thread::Uid::from_raw(raw)
}

fn gid(raw: u32) -> rustix::thread::Gid {
    rustix::thread::Gid::from_raw(raw)
}

/// Second stage: installs the filters, hands the listener over, and obeys.
pub fn serve() -> ExitCode {
    let channel = channel();
    let (with_unix_guard, _) = channel.receive::<bool>().unwrap().unwrap();
    rustix::thread::set_no_new_privs(true).unwrap();
    let mut all = rules().to_vec();
    if with_unix_guard {
        all.extend_from_slice(unix_guard::rules());
    }
    let (refusing, asking) = compile(&all).unwrap();
    for program in &refusing {
        seccompiler::apply_filter(program).unwrap();
    }
    let listener = seccomp_notify::install(&asking.unwrap()).unwrap();
    channel.send(&"listening", &[listener.as_fd()]).unwrap();
    drop(listener);
    while let Some((order, _)) = channel.receive::<Do>().unwrap() {
        channel.send(&obey(order), &[]).unwrap();
    }
    ExitCode::SUCCESS
}

fn obey(order: Do) -> Outcome {
    let nothing = Vec::new;
    match order {
        Do::Socket(domain, kind, protocol) => {
            // SAFETY: socket takes three integers.
            number(unsafe { libc::socket(domain, kind, protocol) }.into())
        }
        Do::Bind(fd, address) => {
            let length = u32::try_from(address.len()).unwrap();
            // SAFETY: the address lives across the call and is as long as is said.
            number(unsafe { libc::bind(fd, address.as_ptr().cast(), length) }.into())
        }
        Do::BindWild(fd, pointer, length) => {
            // SAFETY: the kernel checks the pointer, which is what is tested.
            number(unsafe { libc::syscall(libc::SYS_bind, fd, pointer, length) })
        }
        Do::Connect(fd, address) => {
            let length = u32::try_from(address.len()).unwrap();
            // SAFETY: as for bind.
            number(unsafe { libc::connect(fd, address.as_ptr().cast(), length) }.into())
        }
        Do::Listen(fd, backlog) => {
            // SAFETY: listen takes two integers.
            number(unsafe { libc::listen(fd, backlog) }.into())
        }
        Do::Set(fd, level, name, value) => {
            let length = u32::try_from(value.len()).unwrap();
            let value = value.as_ptr().cast();
            // SAFETY: the value lives across the call and is as long as is said.
            number(unsafe { libc::setsockopt(fd, level, name, value, length) }.into())
        }
        Do::SetWild(fd, level, name, pointer, length) => {
            let call = libc::SYS_setsockopt;
            // SAFETY: the kernel checks the pointer, which is what is tested.
            number(unsafe { libc::syscall(call, fd, level, name, pointer, length) })
        }
        Do::Get(fd, level, name) => {
            let (mut value, mut length) = (0_i32, 4_u32);
            let to = (&raw mut value).cast();
            // SAFETY: value and length live across the call, and the length is the value's.
            number(unsafe { libc::getsockopt(fd, level, name, to, &raw mut length) }.into())?;
            Ok((value.into(), nothing()))
        }
        Do::Receive(fd, millis) => receive(fd, millis),
        Do::Send(fd, frame, address) => {
            let length = u32::try_from(address.len()).unwrap();
            let (to, what) = (address.as_ptr().cast(), frame.as_ptr().cast());
            // SAFETY: frame and address live across the call and are as long as is said.
            number(unsafe { libc::sendto(fd, what, frame.len(), 0, to, length) } as i64)
        }
        Do::Map(fd, length) => {
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            // SAFETY: a new mapping where the kernel likes; it stays until the end.
            let at = unsafe { libc::mmap(std::ptr::null_mut(), length, access, kind, fd, 0) };
            number(if at == libc::MAP_FAILED { -1 } else { 0 })
        }
        Do::Close(fd) => {
            // SAFETY: the test closes what it had opened.
            number(unsafe { libc::close(fd) }.into())
        }
        Do::Flags(fd) => {
            // SAFETY: F_GETFL and F_GETFD take no argument.
            let status = unsafe { libc::fcntl(fd, libc::F_GETFL) };
            // SAFETY: as above.
            let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
            number(i64::from(status) | (i64::from(flags) << 32))
        }
        Do::Run(seconds, words) => run(seconds, &words),
        Do::Become(raw) => {
            rustix::thread::set_thread_res_gid(gid(raw), gid(raw), gid(raw)).unwrap();
            rustix::thread::set_thread_res_uid(uid(raw), uid(raw), uid(raw)).unwrap();
            Ok((0, nothing()))
        }
    }
}

fn number(result: i64) -> Outcome {
    if result < 0 {
        Err(std::io::Error::last_os_error().raw_os_error().unwrap())
    } else {
        Ok((result, Vec::new()))
    }
}

fn receive(fd: RawFd, millis: i32) -> Outcome {
    let mut wait = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd that lives across the call.
    if number(unsafe { libc::poll(&raw mut wait, 1, millis) }.into())?.0 == 0 {
        return Err(libc::ETIMEDOUT);
    }
    let mut frame = vec![0; 65536];
    // SAFETY: the descriptor is open in this process as long as the test says so.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let (got, _) = rustix::net::recv(fd, &mut frame[..], rustix::net::RecvFlags::empty())
        .map_err(rustix::io::Errno::raw_os_error)?;
    frame.truncate(got);
    Ok((i64::try_from(got).unwrap(), frame))
}

/// Everything that the program said, errors last.
fn run(seconds: u64, words: &[String]) -> Outcome {
    let output = Command::new("timeout")
        .arg(seconds.to_string())
        .args(words)
        .output()
        .map_err(|e| e.raw_os_error().unwrap())?;
    let code = output.status.code().unwrap_or(-1);
    Ok((code.into(), [output.stdout, output.stderr].concat()))
}

/// Starts the first stage with `ours` as its channel.
pub fn spawn(theirs: &Channel) -> std::process::Child {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("__child");
    let fd = theirs.as_fd().as_raw_fd();
    // SAFETY: the closure makes async-signal-safe system calls only.
    unsafe { command.pre_exec(move || keep(fd)) };
    command.spawn().unwrap()
}

/// Makes `fd` the channel of the program to come.
fn keep(fd: RawFd) -> std::io::Result<()> {
    // SAFETY: dup2 takes two integers, and nothing needs descriptor 3 in this child.
    unsafe { libc::dup2(fd, CHANNEL) };
    // SAFETY: F_SETFD takes an integer; dup2 of a descriptor onto itself changes nothing.
    unsafe { libc::fcntl(CHANNEL, libc::F_SETFD, 0) };
    Ok(())
}

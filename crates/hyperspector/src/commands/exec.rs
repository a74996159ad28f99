//! `hyperspector exec`: a command inside a portspace or a server space.
//!
//! The space's init starts it, so it is confined as everything else in there. The operator's
//! terminal is never handed in: it gets a terminal of the space's own, and bytes are passed between
//! the two.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hyperspector_space::control::{Answer, End, Request};
use hyperspector_sys::channel::Channel;
use hyperspector_sys::netns;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::cli::{Exec, Global};
use crate::interrupts::Interrupts;
use crate::terminal::escape;

/// How long a space may take to start the command.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(global: &Global, exec: &Exec) -> Result<ExitCode> {
    let layout = global.existing()?;
    let name = super::space(&exec.name)?;
    let path = layout.space(&name).control();
    let stream = netns::connect(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => super::unknown(&layout, &name),
        io::ErrorKind::ConnectionRefused => anyhow::anyhow!("{name} does not run"),
        _ => anyhow::Error::from(error).context(format!("reach {name}")),
    })?;
    let space = Channel::new(stream);
    let is_terminal = stdin_is_terminal() && io::stdout().is_terminal();
    let terminal = exec.tty || (is_terminal && !exec.no_tty);
    let request = Request::Exec(hyperspector_space::control::Exec {
        command: if exec.command.is_empty() {
            vec!["/bin/sh".into()]
        } else {
            exec.command.clone()
        },
        environment: environment(terminal),
        user: exec.user.clone(),
        directory: exec.directory.clone(),
        terminal,
    });
    let end = if terminal { with_terminal(&space, &request) } else { with_pipes(&space, &request) };
    Ok(exit_code(end?))
}

/// What the command is told of the operator's terminal.
fn environment(terminal: bool) -> BTreeMap<String, String> {
    let term = std::env::var("TERM").ok().filter(|_| terminal);
    term.into_iter().map(|term| ("TERM".to_owned(), term)).collect()
}

fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// As a shell has it: the status, or 128 and the signal.
pub fn exit_code(end: End) -> ExitCode {
    let code = match end {
        End::Status(status) => status,
        End::Signal(signal) => signal.saturating_add(128),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Sends the request; returns what came along with the answer that it was started.
fn started(space: &Channel, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>> {
    space.stream().set_write_timeout(Some(PATIENCE)).context("prepare to wait")?;
    space.send(request, fds).context("ask the space")?;
    match hear(space)? {
        Some((Answer::Started, fds)) => Ok(fds),
        Some((Answer::Refused(reason), _)) => bail!("{}", escape(&reason)),
        _ => bail!("the space does not answer"),
    }
}

/// What the space says next. Its init may be taken, and stop in the middle.
fn hear(space: &Channel) -> Result<Option<(Answer, Vec<OwnedFd>)>> {
    space.receive_within(PATIENCE).context("hear from the space")
}

fn ended(space: &Channel) -> Result<End> {
    match hear(space)? {
        Some((Answer::Ended(end), _)) => Ok(end),
        _ => bail!("the space ended"),
    }
}

/// Runs with three pipes: the operator's own descriptors are not handed in either.
///
/// Input has a thread of its own: a command that does not read it must not keep its output from
/// being read.
fn with_pipes(space: &Channel, request: &Request) -> Result<End> {
    let [input, output, errors] = [(); 3].map(|()| pipe_with(PipeFlags::CLOEXEC));
    let (input, output, errors) = (input?, output?, errors?);
    started(space, request, &[input.0.as_fd(), output.1.as_fd(), errors.1.as_fd()])?;
    drop((input.0, output.1, errors.1));
    pass_input(input.1);
    let mut pumps = [Pump::new(output.0.as_fd(), stdout()), Pump::new(errors.0.as_fd(), stderr())];
    // Output ends when the last process that holds it does; the end of the command itself is what
    // counts.
    loop {
        let waiting: Vec<usize> = (0..2).filter(|index| !pumps[*index].is_done).collect();
        let mut fds = vec![PollFd::new(space, PollFlags::IN)];
        fds.extend(waiting.iter().map(|i| PollFd::from_borrowed_fd(pumps[*i].from, PollFlags::IN)));
        poll_again(&mut fds)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for (index, _) in waiting.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            pumps[*index].step();
        }
        if ready[0] {
            let end = ended(space)?;
            pumps.iter_mut().for_each(Pump::drain);
            return Ok(end);
        }
    }
}

/// Passes standard input on in a thread that ends with the program.
fn pass_input(to: OwnedFd) {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        loop {
            match rustix::io::read(stdin(), &mut buffer) {
                Ok(read) if read > 0 && write_all(to.as_fd(), &buffer[..read]).is_ok() => {}
                Err(rustix::io::Errno::INTR) => {}
                // The other side sees the end of its input.
                _ => return,
            }
        }
    });
}

fn poll_again(fds: &mut [PollFd<'_>]) -> Result<()> {
    match poll(fds, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("wait"),
    }
}

/// Passes bytes from one descriptor to another.
struct Pump<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    is_done: bool,
}

impl<'a> Pump<'a> {
    fn new(from: BorrowedFd<'a>, to: BorrowedFd<'a>) -> Self {
        Self { from, to, is_done: false }
    }

    fn step(&mut self) {
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(self.from, &mut buffer) {
            Ok(read) if read > 0 => self.is_done = write_all(self.to, &buffer[..read]).is_err(),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            _ => self.is_done = true,
        }
    }

    /// Passes on what is there already.
    fn drain(&mut self) {
        while !self.is_done {
            let timeout = rustix::event::Timespec::default();
            let mut fds = [PollFd::from_borrowed_fd(self.from, PollFlags::IN)];
            if !poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0) {
                return;
            }
            self.step();
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Runs on a terminal of the space, as large as the operator's.
fn with_terminal(space: &Channel, request: &Request) -> Result<End> {
    let master = started(space, request, &[])?.pop().context("the space gave no terminal")?;
    let signals = Interrupts::of(&[libc::SIGWINCH, libc::SIGTERM, libc::SIGHUP])?;
    let _raw = Raw::enter();
    resize(&master);
    pass_input(master.try_clone()?);
    let mut shown = Pump::new(master.as_fd(), stdout());
    loop {
        let mut fds = vec![PollFd::new(space, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        if !shown.is_done {
            fds.push(PollFd::from_borrowed_fd(shown.from, PollFlags::IN));
        }
        poll_again(&mut fds)?;
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        match ready[1].then(|| signals.next()).flatten() {
            Some(libc::SIGWINCH) => resize(&master),
            // The operator's terminal is put back, and the one inside hangs up.
            Some(signal) => return Ok(End::Signal(signal)),
            None => {}
        }
        if ready.get(2) == Some(&true) {
            shown.step();
        }
        if ready[0] {
            let end = ended(space)?;
            shown.drain();
            return Ok(end);
        }
    }
}

fn resize(master: &OwnedFd) {
    if let Ok(size) = tcgetwinsize(stdin()) {
        let _ = tcsetwinsize(master, size);
    }
}

/// The operator's terminal in raw mode, and back when this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn enter() -> Self {
        let Ok(before) = tcgetattr(stdin()) else { return Self(None) };
        let mut raw = before.clone();
        raw.make_raw();
        let entered = tcsetattr(stdin(), OptionalActions::Flush, &raw).is_ok();
        Self(entered.then_some(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(stdin(), OptionalActions::Flush, before);
        }
    }
}

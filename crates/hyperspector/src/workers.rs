//! The processes that are this program again: `hyperspector __worker KIND`.

use std::process::ExitCode;

/// Runs the worker that the arguments ask for; `None` when they ask for none.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != hyperspector_sys::worker::SUBCOMMAND {
        return None;
    }
    Some(match arguments.next().as_deref() {
        Some("space") => hyperspector_space::builder::worker_main(),
        Some("journal") => hyperspector_window::changes::worker_main(),
        Some(hyperspector_window::changes::mounts::KIND) => {
            hyperspector_window::changes::mounts::worker_main()
        }
        Some("guard") => hyperspector_window::packets::guard::worker_main(),
        Some("broker") => hyperspector_window::packets::broker::worker_main(),
        Some(hyperspector_window::processes::facts::KIND) => {
            hyperspector_window::processes::facts::worker_main()
        }
        Some(hyperspector_window::processes::procfs::KIND) => {
            hyperspector_window::processes::procfs::worker_main()
        }
        Some("views") => hyperspector_window::files::worker::worker_main(),
        Some("places") => hyperspector_window::sockets::place::worker::worker_main(),
        Some("keeper") => hyperspector_window::sockets::keeper::worker_main(),
        Some("tee") => hyperspector_window::sockets::tee::worker_main(),
        Some(hyperspector_window::syscalls::tracer::KIND) => {
            hyperspector_window::syscalls::tracer::worker_main()
        }
        Some("vpn") => hyperspector_vpn::device::worker_main(),
        Some(hyperspector_vpn::names::KIND) => hyperspector_vpn::names::worker_main(),
        _ => ExitCode::FAILURE,
    })
}

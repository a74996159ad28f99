//! Changes as text.

use std::fmt;

use super::{Change, Changes, HyperspectorChange, ServerChange};

impl Change {
    /// The mark in front of a line: `+`, `-`, `~`, or a space.
    pub fn mark(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Changed => '~',
            Self::Unchanged => ' ',
        }
    }
}

/// One line for each thing that changes, and none for what does not.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for server in self.servers.iter().filter(|server| server.change != Change::Unchanged) {
            server.fmt(f)?;
        }
        for hyperspector in self.hyperspectors.iter().filter(|h| h.change != Change::Unchanged) {
            hyperspector.fmt(f)?;
        }
        Ok(())
    }
}

/// The server's line, ended.
impl fmt::Display for ServerChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fields, restart) = (listed(&self.fields), restarted(self.restart));
        writeln!(f, "{} server {}{fields}{restart}", self.change.mark(), self.name)
    }
}

/// The HyperSpector's lines, each ended.
impl fmt::Display for HyperspectorChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        writeln!(f, "{} {name}", self.change.mark())?;
        if !self.vpn.fields.is_empty() {
            writeln!(f, "{} {name} vpn: {}", self.vpn.change.mark(), self.vpn.fields.join(", "))?;
        }
        for peer in self.vpn.peers.iter().filter(|peer| peer.change != Change::Unchanged) {
            let fields = listed(&peer.fields);
            writeln!(f, "{} {name} peer {}{fields}", peer.change.mark(), peer.host)?;
        }
        if self.names {
            writeln!(f, "{} {name} names", Change::Changed.mark())?;
        }
        if !self.policy.is_empty() {
            writeln!(f, "{} {name} hub: {}", Change::Changed.mark(), self.policy.join(", "))?;
        }
        for portspace in self.portspaces.iter().filter(|p| p.change != Change::Unchanged) {
            let fields = listed(&portspace.fields);
            let restart = restarted(portspace.restart);
            writeln!(f, "{} {}{fields}{restart}", portspace.change.mark(), portspace.name)?;
        }
        Ok(())
    }
}

fn listed(fields: &[&str]) -> String {
    if fields.is_empty() { String::new() } else { format!(": {}", fields.join(", ")) }
}

fn restarted(restart: bool) -> &'static str {
    if restart { " (restart)" } else { "" }
}

//! Which registered ports any program of the host can have by chance: those that the kernel gives to
//! whoever asks for any (ip(7), `ip_local_port_range`).

use std::fs;

use hyperspector_spec::plan::Ports;

/// The registered ports of which some are given to anybody, as the operator writes them.
pub(super) fn given_by_chance(ports: &[Ports]) -> Vec<String> {
    let read = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    overlapping(ports, &read("ip_local_port_range"), &read("ip_local_reserved_ports"))
}

fn overlapping(ports: &[Ports], range: &str, reserved: &str) -> Vec<String> {
    let mut ends = range.split_ascii_whitespace().map(|end| end.parse::<u16>().unwrap_or(0));
    let (Some(first), Some(last)) = (ends.next(), ends.next()) else { return Vec::new() };
    let reserved: Vec<(u16, u16)> = reserved.trim().split(',').filter_map(ends_of).collect();
    let is_reserved =
        |port: u16| reserved.iter().any(|(first, last)| (*first..=*last).contains(&port));
    let is_given =
        |one: &&Ports| (one.first.max(first)..=one.last.min(last)).any(|port| !is_reserved(port));
    ports.iter().filter(is_given).map(Ports::to_string).collect()
}

/// `80` or `80-90`.
fn ends_of(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperspector_spec::plan::Protocol;

    fn ports(first: u16, last: u16) -> Ports {
        Ports { protocol: Protocol::Udp, first, last }
    }

    #[test]
    fn only_what_the_kernel_gives_to_anybody_is_told() {
        let all = [ports(53, 53), ports(32767, 32768), ports(51820, 51820), ports(61000, 61001)];
        let told = |reserved| overlapping(&all, "32768\t60999\n", reserved);
        assert_eq!(told("\n"), ["udp/32767-32768", "udp/51820"]);
        assert_eq!(told("51000-52000,32768\n"), [""; 0]);
        assert_eq!(told("32768\n"), ["udp/51820"]);
    }

    #[test]
    fn without_the_kernel_s_word_nothing_is_told() {
        assert_eq!(overlapping(&[ports(51820, 51820)], "", ""), [""; 0]);
    }
}

//! The answer to a system call by its number alone, as a classic BPF program that finds it in a
//! balanced tree (seccomp(2)). Calls whose arguments are judged pass through every filter each time:
//! a chain of comparisons over all numbers takes 300 ns for those at its end, and openat is there.

use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
use seccompiler::{BpfProgram, sock_filter};

/// Where `struct seccomp_data` has the number, and the architecture that it counts for.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// What is answered from a number on, up to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    number: u32,
    answer: u32,
}

/// A filter that gives each listed call its answer, and `otherwise` to all others. Calls of another
/// architecture end the process. A call must not be listed twice.
pub(super) fn program(listed: impl Iterator<Item = (i64, u32)>, otherwise: u32) -> BpfProgram {
    let mut program = vec![
        plain(BPF_LD | BPF_W | BPF_ABS, ARCHITECTURE),
        jump(BPF_JEQ, AUDIT_ARCH, 1, 0),
        plain(BPF_RET | BPF_K, libc::SECCOMP_RET_KILL_PROCESS),
        plain(BPF_LD | BPF_W | BPF_ABS, NUMBER),
    ];
    program.extend(tree(&stretches(listed, otherwise)));
    program
}

/// The listed numbers as stretches with one answer, from 0 on.
fn stretches(listed: impl Iterator<Item = (i64, u32)>, otherwise: u32) -> Vec<Stretch> {
    let mut listed: Vec<Stretch> = listed
        .filter_map(|(number, answer)| Some(Stretch { number: number.try_into().ok()?, answer }))
        .collect();
    listed.sort_by_key(|one| one.number);
    let mut stretches = vec![Stretch { number: 0, answer: otherwise }];
    for one in listed {
        if stretches.last().is_some_and(|last| last.number == one.number) {
            stretches.pop();
        }
        stretches.push(one);
        stretches.push(Stretch { number: one.number + 1, answer: otherwise });
    }
    stretches.dedup_by_key(|one| one.answer);
    stretches
}

/// The instructions that find the stretch of the number in the accumulator.
fn tree(stretches: &[Stretch]) -> BpfProgram {
    if let [one] = stretches {
        return vec![plain(BPF_RET | BPF_K, one.answer)];
    }
    let (below, above) = stretches.split_at(stretches.len() / 2);
    let first = above[0].number;
    let (below, above) = (tree(below), tree(above));
    let mut program = match u8::try_from(below.len()) {
        Ok(length) => vec![jump(BPF_JGE, first, length, 0)],
        // Only this jump goes so far.
        Err(_) => vec![jump(BPF_JGE, first, 0, 1), plain(BPF_JMP | BPF_JA, below.len() as u32)],
    };
    program.extend(below);
    program.extend(above);
    program
}

fn plain(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Compares the accumulator with `k`, and passes over so many instructions where that holds or not.
fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | comparison | BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer, and after how many instructions.
    fn run(program: &[sock_filter], architecture: u32, number: u32) -> (u32, usize) {
        let (mut at, mut accumulator, mut steps) = (0, 0, 0);
        loop {
            let one = &program[at];
            at += 1;
            steps += 1;
            match (one.code, one.k) {
                (0x20, NUMBER) => accumulator = number,
                (0x20, ARCHITECTURE) => accumulator = architecture,
                (0x05, k) => at += k as usize,
                (0x15, k) => at += usize::from(if accumulator == k { one.jt } else { one.jf }),
                (0x35, k) => at += usize::from(if accumulator >= k { one.jt } else { one.jf }),
                (0x06, k) => return (k, steps),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Every number has the answer of a plain list, and few steps lead to it.
    fn check(listed: &[(i64, u32)]) {
        let program = program(listed.iter().copied(), 7);
        for number in (0..2000).chain([0x4000_0000, 0x4000_0101, u32::MAX]) {
            let expected = listed.iter().find(|(one, _)| *one == i64::from(number));
            let (answer, steps) = run(&program, AUDIT_ARCH, number);
            assert_eq!(answer, expected.map_or(7, |(_, answer)| *answer), "number {number}");
            assert!(steps < 30, "number {number} takes {steps} instructions");
            assert_eq!(run(&program, 0x4000_0003, number).0, libc::SECCOMP_RET_KILL_PROCESS);
        }
    }

    #[test]
    fn each_number_has_its_own_answer() {
        check(&[]);
        check(&[(0, 1)]);
        check(&[(5, 1), (0, 2), (6, 1), (7, 2), (i64::from(u32::MAX) - 1, 3)]);
    }

    #[test]
    fn jumps_reach_over_more_than_a_byte_counts() {
        let listed: Vec<(i64, u32)> =
            (0..1500).step_by(2).map(|one| (one, one as u32 % 3)).collect();
        check(&listed);
    }
}

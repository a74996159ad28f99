//! What the judge runs, and where the two may differ.

/// A program by a name, as a script of a shell in a directory of its own.
pub const PROGRAMS: &[(&str, &str)] = &[
    (
        "coreutils",
        "ls -la / /proc/self/fd; cp /etc/hostname a; cp -a /etc/apt b; mv a c; ln c d; ln -s d e; \
         find b; sort /etc/passwd | uniq -c | head -3; dd if=/dev/zero of=f bs=1000 count=5; \
         touch g; chmod 600 g; chown 0:0 g; mkdir -p h/i; rmdir h/i; stat g; df .; du -s b; wc f; \
         head -c 5 /dev/urandom; tail -n 1 /etc/passwd; tr a b < c; date; uname -a; id; sync; \
         truncate -s 10 f; mkfifo j; readlink -f e; tee k < c; timeout 1 sleep 0.05; nice -n 1 true; \
         cat /nonexistent; rm -r b; nproc; cksum f; split -b 500 f; shuf -i 1-5; stty; tty; env",
    ),
    (
        "shell",
        "x=$(echo hello | cat); for i in 1 2 3; do echo $i > $i; done; (exit 3); false || true; \
         trap : USR1; kill -USR1 $$; cat < 1 > 4 2>&1; cd /; pwd; ulimit -n; umask 022; wait; \
         sleep 0.01 & wait; exec 7< /etc/passwd; read line <&7; /nonexistent/program; [ -e /etc ]",
    ),
    (
        "bash",
        "bash -c 'shopt -s nullglob; for f in /etc/*.conf; do [[ -r $f ]] && n=$((n+1)); done; \
         coproc cat; echo hi >&${COPROC[1]}; read x <&${COPROC[0]}; cat <(echo a) <<< b; \
         printf \"%(%F)T\\n\"; ulimit -c 0; times; kill %1'",
    ),
    (
        "perl",
        "perl -MPOSIX -MFile::Find -MSocket -MIO::Socket -e 'my @s = stat \"/etc\"; \
         find(sub { }, \"/etc/apt\"); open F, \">x\"; print F \"y\" x 10000; close F; rename \"x\", \"y\"; \
         utime 1, 2, \"y\"; unlink \"y\"; local $SIG{ALRM} = sub {}; alarm 1; alarm 0; \
         my $pid = fork; if (!$pid) { exit 4 } waitpid $pid, 0; select undef, undef, undef, 0.01; \
         print `echo x`; POSIX::nice(1); getpwnam \"root\"; my $t = times'",
    ),
    (
        "python",
        "/usr/bin/python3 -c 'import json, ssl, sqlite3, asyncio, subprocess, threading, tempfile, \
         urllib.request, concurrent.futures as c\n\
         subprocess.run([\"true\"])\n\
         with c.ThreadPoolExecutor(4) as p: list(p.map(lambda n: sum(range(n)), [1000] * 50))\n\
         asyncio.run(asyncio.sleep(0.01))\n\
         tempfile.TemporaryFile().write(b\"x\")'",
    ),
    (
        "network",
        "/usr/bin/python3 -m http.server --bind 127.0.0.1 8765 & sleep 1.5; echo page > index.html; \
         curl -s http://127.0.0.1:8765/index.html; curl -s http://127.0.0.1:8765/none; \
         curl -s http://127.0.0.1:1/; kill $!; wait",
    ),
    (
        "archives",
        "mkdir t; cp -r /etc/apt t; tar cf t.tar t; tar tf t.tar; mkdir u; tar xf t.tar -C u; \
         gzip t.tar; gunzip t.tar.gz; rm -r t u",
    ),
    (
        "git",
        "export HOME=$PWD; git init -q r; cd r; echo a > a; git add a; \
         git -c user.name=a -c user.email=a@example.com commit -qm a; git log; git status",
    ),
    (
        "sqlite",
        "sqlite3 x.db 'create table t(a); insert into t values(1),(2); select sum(a) from t;'",
    ),
    (
        "look",
        "ps aux; ip addr; ip route; ss -lnt; mount; free; uptime; lsof -p $$; nft list tables",
    ),
];

/// Calls that may differ where strace's line has that text, each with the reason.
pub const EXPLAINED: &[(&str, &str, &str)] = &[
    ("mincore", "", "the vector is not captured"),
    ("ioprio_set", "", "the priority is not taken apart"),
    ("ioprio_get", "", "the priority is not taken apart"),
    ("kcmp", "", "descriptors of other processes are not named"),
    ("pidfd_getfd", "", "descriptors of other processes are not named"),
    ("seccomp", "", "what it is given is not captured"),
    ("keyctl", "", "arguments are not taken apart by command"),
    ("quotactl", "", "the command is not taken apart"),
    ("quotactl_fd", "", "the command is not taken apart"),
    ("syslog", "_??? */", "strace writes this unknown command in base 10"),
    ("kexec_load", "", "flags have no names"),
    ("get_mempolicy", "", "sets of nodes are not captured"),
    ("set_mempolicy", "", "sets of nodes are not captured"),
    ("mbind", "", "sets of nodes are not captured"),
    ("msgrcv", "\\0", "strace shows all of the buffer, we what was received"),
    ("execve", "[0x1", "what a vector has that is no address is not told"),
    ("sendto", "nlmsg_len=", "netlink messages are told as bytes"),
    ("sendmsg", "nlmsg_len=", "netlink messages are told as bytes"),
    ("recvmsg", "nlmsg_len=", "netlink messages are told as bytes"),
    ("recvfrom", "nlmsg_len=", "netlink messages are told as bytes"),
    ("write", "nlmsg_len=", "netlink messages are told as bytes"),
    ("recvmsg", "SCM_RIGHTS", "descriptors that have just come are not named"),
    ("sendmmsg", "", "what several messages point at is not captured"),
    ("recvmmsg", "", "what several messages point at is not captured"),
];

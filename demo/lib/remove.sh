# shellcheck shell=bash
# Everything removed, and a look whether anything is left.

# What a host has before HyperSpector: afterwards it must have the same.
before_up() { traces "$1" >"$work/$1/before"; }

# Mounts, links, and sockets of a test host, without what changes by itself.
traces() {
    on "$1" sh -c '
        cut -d " " -f 5 /proc/self/mountinfo | sort
        ip -br link | sed "s/ .*//" | sort
        ip route
        ip -o addr | cut -d " " -f 2-7
        tc filter show dev eth0 egress 2>/dev/null; tc filter show dev lo egress 2>/dev/null
        ss -Hlntu | tr -s " " | sort' 2>/dev/null
}

# Paths of the cgroups that hold a host's portspaces: all below hyperspector/INSTANCE.
note_cgroups() {
    local pid
    for pid in $(ids_pids "$1"); do
        sed -n 's|.*\(/hyperspector/[^/]*\).*|\1|p' "/proc/$pid/cgroup" 2>/dev/null
    done | sort -u >"$work/$1/cgroups"
}

down() {
    local host left=0 downs=()
    for host in "${guarded[@]}"; do
        [[ -e $work/$host/before ]] || continue
        down_host "$host" &
        downs+=($!)
    done
    for host in "${downs[@]}"; do wait "$host" || left=1; done
    return $left
}

# 1 if it failed or left something.
down_host() {
    local host=$1 own_log=$work/$1/log status=0
    note_cgroups "$host" || true
    ids_pids "$host" >"$work/$host/pids" 2>/dev/null || true
    hs "$host" down --purge >"$own_log" 2>&1 </dev/null || {
        status=1
        note "hyperspector down failed on $host: $(tail -n 1 "$own_log" | printable)"
    }
    cat "$own_log" >>"$log"
    what_is_left "$host" >"$work/$host/left"
    if [[ -s $work/$host/left ]]; then
        status=1
        note "left on $host:" "$(cat "$work/$host/left")"
    fi
    end_what_is_left "$host"
    return $status
}

# Where `down` did not do its work: what it left is reported above, and does not stay.
end_what_is_left() {
    local pid path directory
    { sed -n 's/^    process \([0-9]*\):.*/\1/p' "$work/$1/left"; cgroup_processes "$1"; } | sort -u |
        while read -r pid; do kill -KILL "$pid" 2>/dev/null || true; done
    sleep 0.1
    while read -r path; do
        for directory in /sys/fs/cgroup/*"$path" "/sys/fs/cgroup$path"; do
            [[ ! -d $directory ]] || find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null || true
        done
    done <"$work/$1/cgroups"
}

cgroup_processes() {
    local path
    while read -r path; do
        find /sys/fs/cgroup -path "*$path/*" -name cgroup.procs -exec cat {} + 2>/dev/null
    done <"$work/$1/cgroups"
}

what_is_left() {
    local host=$1 pid path
    # A mount that is gone was somebody else's: these mounts are a copy of the machine's.
    traces "$host" | diff "$work/$host/before" - | sed -n 's/^> /    new: /p; s/^< \([^/]\)/    gone: \1/p'
    while read -r pid; do
        has_ended "$pid" || echo "    process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" | printable)"
    done <"$work/$host/pids"
    naming "$work/$host/" | while read -r pid; do
        is_ours "$pid" || echo "    process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" | printable)"
    done
    while read -r path; do
        find /sys/fs/cgroup -maxdepth 5 -type d -path "*$path" | sed 's/^/    cgroup /'
    done <"$work/$host/cgroups"
    find "$work/$host/state" "$work/$host/run" -mindepth 1 2>/dev/null | head -n 20 | sed 's/^/    file /'
}

# Whether the demonstration started it itself.
is_ours() {
    local start
    start=$(start_time "$1") || return 0
    grep -qxF "$1 $start" "$work/processes" || [[ $1 == "$$" ]]
}

end_processes() {
    local pid start
    [[ -e $work/processes ]] || return 0
    tac "$work/processes" | while read -r pid start; do
        [[ $(start_time "$pid") == "$start" ]] || continue
        for pid in $(descendants "$pid"); do kill -KILL "$pid" 2>/dev/null || true; done
    done
}

# All of it; 1 if something is left. Goes on after every error.
remove_all() {
    local left=0 name
    ((${#holder[@]} == 0)) || down || left=1
    end_processes
    for name in switch "${hosts[@]}"; do
        [[ ! -e /run/netns/hs-demo-$name ]] || ip netns delete "hs-demo-$name" || left=1
    done
    ((left == 0)) || failed=1
    keep_log
    rm -rf --one-file-system "$work" || left=1
    [[ ! -e $work ]] || left=1
    within 3 nothing_runs || { left=1; note "still running: $(still_running)"; }
    rm -f "$record"
    return $left
}

# A failed demonstration leaves its log.
keep_log() {
    [[ $failed && -s $log ]] || return 0
    cp "$log" "${work%/*}/hyperspector-demo.log"
    note "The whole log is ${work%/*}/hyperspector-demo.log."
}

# Processes that name the work directory.
still_running() { naming "$work/" | grep -vx "$$" | paste -sd ' '; }

# Processes with a text in their command line; grep does not have it in its own.
naming() { grep -lsF -f <(echo "$1") /proc/[0-9]*/cmdline | tr -cd '0-9\n'; }

nothing_runs() { [[ ! $(still_running) ]]; }

# Takes up a demonstration that an earlier run left, from its record.
adopt_earlier() {
    local host
    work=$(cat "$record")
    [[ $work == /*/hyperspector-demo.* && -d $work ]] || { rm -f "$record"; return 1; }
    log=$work/log spec=$work/spec.toml hyperspector=$work/bin/hyperspector
    while read -r host pid start; do
        [[ $(start_time "$pid") != "$start" ]] || holder["$host"]=$pid
    done < <(cat "$work/holders" 2>/dev/null)
}

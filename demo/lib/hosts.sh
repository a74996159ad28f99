# shellcheck shell=bash
# The test hosts: network namespaces, joined by veth to a bridge in a fifth one.
#
#   attacker 192.0.2.66 ──┐
#   web1     192.0.2.11 ──┤  br0 in
#   web2     192.0.2.12 ──┤  hs-demo-switch
#   watch    192.0.2.13 ──┘
#
# Each also has mounts of its own, held by a process, so that /srv/www is another directory on each.

readonly hosts=(web1 web2 watch attacker) watched=(web1 web2) guarded=(web1 web2 watch)
declare -rA address=([web1]=192.0.2.11 [web2]=192.0.2.12 [watch]=192.0.2.13 [attacker]=192.0.2.66)
declare -A holder=() server=() namespace_root=()

# Remembers a process of ours, so that it and nothing else is ended later; the shell need not tell.
remember() {
    echo "$1 $(start_time "$1")" >>"$work/processes"
    disown "$1" 2>/dev/null || true
}

# The same for one that was started just before a signal.
remember_last() {
    local pid=${!:-}
    [[ $pid && $(sed -n 's/^PPid:\t//p' "/proc/$pid/status" 2>/dev/null) == "$$" ]] || return 0
    remember "$pid"
}

# When a process started: with its id, that names it for good (proc_pid_stat(5), field 22).
start_time() {
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    stat=${stat##*) }
    # shellcheck disable=SC2086  # split into fields on purpose
    set -- $stat
    echo "${20}"
}

has_ended() { [[ ! -e /proc/$1 || $(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) == [ZX]* ]]; }

make_hosts() {
    local host
    make_namespace switch
    ip -n hs-demo-switch link add br0 type bridge
    ip -n hs-demo-switch link set br0 up
    for host in "${hosts[@]}"; do
        make_namespace "$host"
        ip -n "hs-demo-$host" link add eth0 type veth peer name "$host" netns hs-demo-switch
        ip -n hs-demo-switch link set "$host" master br0 up
        ip -n "hs-demo-$host" address add "${address[$host]}/24" dev eth0
        ip -n "hs-demo-$host" link set eth0 up
        hold "$host"
    done
}

make_namespace() {
    ip netns add "hs-demo-$1"
    # Neighbour discovery would only be noise in the captures.
    nsenter --net="/run/netns/hs-demo-$1" sh -c \
        '! test -e /proc/sys/net/ipv6 || echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6'
    ip -n "hs-demo-$1" link set lo up
}

# A process that keeps the host's mounts. Not `ip netns exec`: that hides the cgroups.
hold() {
    local host=$1 directory=$work/$1
    mkdir -p "$directory"/{www,nginx}
    # shellcheck disable=SC2016  # expanded inside
    setsid nsenter --net="/run/netns/hs-demo-$host" unshare --mount -- bash -c '
        set -e
        mount -t tmpfs -o mode=755 tmpfs /srv
        mkdir /srv/www
        mount --bind "$1/www" /srv/www
        : >"$1/held"
        exec sleep infinity' hold "$directory" >>"$log" 2>&1 </dev/null &
    holder[$host]=$!
    remember "${holder[$host]}"
    within 5 test -e "$directory/held" || die "cannot make the test host $host"
}

# Runs a command on a test host.
on() {
    local host=$1
    shift
    nsenter --target "${holder[$host]}" --mount --net -- "$@"
}

# The same in place of this shell: for the background, so that $! is the command's process; in a
# session of its own, so that Ctrl-C does not reach it.
become_on() {
    local host=$1
    shift
    exec setsid nsenter --target "${holder[$host]}" --mount --net -- "$@"
}

start_servers() {
    local host
    for host in "${watched[@]}"; do
        start_server "$host"
        make_foreign_root "$host-server" --target "${server[$host]}" --mount --pid --net --root
        make_foreign_root "$host-base" --target "${holder[$host]}" --mount --net
    done
}

# A real nginx, as PID 1 of a container of its own.
start_server() {
    local host=$1 directory=$work/$1 container
    echo "<h1>$host</h1>" >"$directory/www/index.html"
    echo 'User-agent: *' >"$directory/www/robots.txt"
    # As on many a real server, the web application may write its own files.
    chown -R www-data: "$directory/www"
    chmod 755 "$directory"
    cp "$demo/etc/nginx/nginx.conf" "$directory/nginx/"
    become_on "$host" unshare --mount --pid --fork --kill-child -- \
        "$demo/etc/nginx/start" "$root" "$directory" >>"$log" 2>&1 </dev/null &
    container=$!
    remember "$container"
    within 10 serves "$host" || die "nginx on $host does not answer"
    server[$host]=$(cat "/proc/$container/task/$container/children")
    server[$host]=${server[$host]%% *}
    remember "${server[$host]}"
}

serves() { on "$1" curl -s -m 2 -o /dev/null http://127.0.0.1/; }

# The root of a user namespace, as a server space has it: all capabilities in there, none outside,
# and ids that nobody else has. NAME, then the namespaces to make it in, for nsenter.
make_foreign_root() {
    local name=$1 unshare
    shift
    setsid nsenter "$@" -- unshare --user --mount --pid --fork --kill-child -- sleep infinity \
        >>"$log" 2>&1 </dev/null &
    unshare=$!
    remember "$unshare"
    within 5 foreign_root_is_there "$unshare" "$name" || die "cannot make a user namespace for $name"
    remember "${namespace_root[$name]}"
    echo '0 1610612736 65536' >"/proc/${namespace_root[$name]}/uid_map"
    echo '0 1610612736 65536' >"/proc/${namespace_root[$name]}/gid_map"
    as_foreign_root "$name" mount -t proc proc /proc
}

foreign_root_is_there() {
    local pid
    pid=$(descendants "$1" | while read -r pid; do
        [[ $(cat "/proc/$pid/comm" 2>/dev/null) != sleep ]] || echo "$pid"
    done)
    [[ $pid ]] && namespace_root[$2]=$pid
}

# A process and all below it.
descendants() {
    local child children
    echo "$1"
    children=$(cat "/proc/$1/task/"*/children 2>/dev/null) || return 0
    for child in $children; do descendants "$child"; done
}

as_foreign_root() {
    local name=$1
    shift
    nsenter --target "${namespace_root[$name]}" --user --mount --pid --net -- "$@"
}

# The web server's own user: in its container, and in the base system.
as_www_in_server() {
    local host=$1
    shift
    nsenter --target "${server[$host]}" --mount --pid --net --root --setuid 33 --setgid 33 -- "$@"
}

as_www_in_base() {
    local host=$1
    shift
    on "$host" setpriv --reuid 33 --regid 33 --clear-groups --inh-caps=-all -- "$@"
}

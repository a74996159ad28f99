# shellcheck shell=bash
# The root that the IDSs run on: Debian trixie, whatever this machine runs.

readonly root_packages=suricata,rsyslog,aide,nginx-light,iproute2,procps,tcpdump
readonly root_stamp=etc/hyperspector-demo

# The Debian archives among the machine's apt sources, as lines for mmdebstrap. apt reads both
# formats of them itself; origin and label come from the archives' signed Release files.
archives() {
    # shellcheck disable=SC2016  # apt-get's own variables
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' | sort -u |
        while IFS='|' read -r origin label uri; do
            case "$origin/$label" in
                Debian/Debian) echo "deb $uri trixie main" ;;
                Debian/Debian-Security) echo "deb $uri trixie-security main" ;;
            esac
        done
}

mirror() {
    if [[ ${HYPERSPECTOR_DEMO_MIRROR:-} ]]; then
        echo "deb $HYPERSPECTOR_DEMO_MIRROR trixie main"
    else
        archives
    fi
}

# Proxies that apt goes through; mmdebstrap does not read the machine's apt.conf.
apt_proxies() {
    apt-config dump | grep -E '^Acquire::https?::Proxy ' | sed 's/^/--aptopt=/' || true
}

make_root() {
    mkdir -p "${root%/*}"
    exec {root_lock}>"$root.lock"
    flock "$root_lock"
    root_is_current || build_root
    exec {root_lock}>&-
}

root_is_current() {
    [[ $(cat "$root/$root_stamp" 2>/dev/null) == "$root_packages" ]]
}

build_root() {
    local new=$root.new options lines
    mapfile -t lines < <(mirror)
    if ((${#lines[@]} == 0)); then
        logged apt-get update || true
        mapfile -t lines < <(mirror)
    fi
    ((${#lines[@]})) || die "no Debian archive among the machine's apt sources: set" \
        'HYPERSPECTOR_DEMO_MIRROR to the address of a mirror'
    mapfile -t options < <(apt_proxies)
    rm -rf --one-file-system "$new"
    logged mmdebstrap --variant=minbase --include="$root_packages" \
        --aptopt='Acquire::Languages "none"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --dpkgopt='path-exclude=/usr/share/doc/*' "${options[@]}" \
        trixie "$new" "${lines[@]}" || die 'mmdebstrap failed'
    echo "$root_packages" >"$new/$root_stamp"
    # Complete or not there.
    [[ ! -e $root ]] || { rm -rf "$root.old" && mv -T "$root" "$root.old"; }
    mv -T "$new" "$root"
    rm -rf --one-file-system "$root.old"
}

# shellcheck shell=bash
# What the demonstration needs on the machine. None of these packages brings a service: the web
# server, the IDSs and rsyslog come with the root that they run on (root.sh).

install_missing() {
    step 'installing what is missing'
    logged "$repository/tools/install-packages" build demo || die 'cannot install what is needed'
}

# Builds unless it is up to date; cargo knows.
build() {
    if command -v cargo >/dev/null; then
        step 'building (the first time takes minutes)'
        (cd "$repository" && logged tools/build --release) ||
            die 'the build failed'
    fi
    [[ -x $hyperspector ]] || die "there is no cargo in PATH, and no $hyperspector"
}

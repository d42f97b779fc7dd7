# What the scripts here share: messages, checks, packages. To be sourced by bash, from a script that has set `name`.
#
# APIVIP_CACHE names another cache than ~/.cache/apivip.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${APIVIP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/apivip}

say() { printf '%s: %s\n' "$name" "$*"; }
fail() {
    printf '%s: %s\n' "$name" "$*" >&2
    exit 1
}

require_root() {
    [ "$(id -u)" = 0 ] || fail "needs root, because it makes network namespaces. Run it as root, for instance with:" \
        "sudo env PATH=\"\$PATH\" HOME=\"\$HOME\" $0"
}

# Fails unless cargo and rustc exist and are not older than rust-version in Cargo.toml.
require_rust() {
    local wanted found how
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    how="Install it with rustup, the installer of the Rust project (https://rustup.rs), on any distribution; then run this again."
    if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
        [ ! -x "$HOME/.cargo/bin/cargo" ] || how="It is in $HOME/.cargo/bin, but that is not in PATH: add it and run this again."
        fail "Rust $wanted or later is needed, and cargo or rustc is missing. $how"
    fi
    found=$(rustc --version | sed 's/^rustc \([0-9.]*\).*/\1/') || fail "rustc does not run. $how"
    # Of two versions the smaller one sorts first.
    if [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
        fail "Rust $wanted or later is needed, and this one is $found. Update it with: rustup update stable"
    fi
}

# Installs those of the named Debian packages that are missing. Uses no network when none is.
require_packages() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null; then
        say "this is not Debian: make sure that the contents of these packages are installed: $*"
        return 0
    fi
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing ${missing[*]}"
    local log
    log=$(mktemp)
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        fail "apt-get could not install ${missing[*]}; the output above says why"
    fi
    rm -f "$log"
}

# Runs one step: `step "what it does" command…`. Prints how long it took, or that it failed.
step() {
    local what=$1 begin=$SECONDS
    shift
    printf '\n== %s\n' "$what"
    "$@" || fail "failed: $what. The output above says why; nothing after it was run."
    printf -- '-- %s: %d s\n' "$what" $((SECONDS - begin))
}

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

# The release that a module file asks for.
release_of() { sed -n "s#^\s*$2 v\([0-9][^ ]*\).*#\1#p" "$1" | head -n 1; }

# Runs a command without its output, which is shown if it fails. The caller has a folder $work.
quietly() {
    if ! "$@" >>"$work/log" 2>&1; then
        tail -n 40 "$work/log" >&2
        fail "failed: $*"
    fi
}

# Is the `go` in PATH as new as a module file wants it?
is_new_enough() {
    local wanted found
    command -v go >/dev/null || return 1
    wanted=$(sed -n 's/^go \([0-9.]*\).*/\1/p' "$1")
    found=$(go env GOVERSION | sed 's/^go\([0-9.]*\).*/\1/')
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ]
}

# Go's releases are modules, too: any Go, of whatever age, can download the one that is wanted, and it is checked against the
# public list of checksums as every module is.
require_go() {
    is_new_enough "$1" && return 0
    local wanted machine folder
    wanted=$(sed -n 's/^go \([0-9.]*\).*/\1/p' "$1")
    if ! command -v go >/dev/null; then
        command -v apt-get >/dev/null || fail "Go is missing: install Go $wanted or later, and run this again"
        require_packages golang-go
    fi
    case $(uname -m) in
    x86_64) machine=amd64 ;;
    aarch64) machine=arm64 ;;
    *) fail "Go here is $(go version), and $wanted or later is needed: install it, and run this again" ;;
    esac
    say "fetching Go $wanted"
    # In a folder without a module file: an old Go stops at a go.mod that is newer than itself.
    (cd "$work" && quietly go mod download "golang.org/toolchain@v0.0.1-go$wanted.linux-$machine")
    folder=$(go env GOMODCACHE)/golang.org/toolchain@v0.0.1-go$wanted.linux-$machine
    # A module has no executable files, and the cache of modules is read-only.
    cp -r "$folder" "$work/go"
    chmod -R u+w "$work/go"
    chmod +x "$work/go/bin/"* "$work/go/pkg/tool/linux_$machine/"*
    export GOROOT=$work/go PATH=$work/go/bin:$PATH
    is_new_enough "$1" || fail "Go $wanted was fetched and does not run: $(go version 2>&1)"
}

# Runs one step: `step "what it does" command…`. Prints how long it took, or that it failed.
step() {
    local what=$1 begin=$SECONDS
    shift
    printf '\n== %s\n' "$what"
    "$@" || fail "failed: $what. The output above says why; nothing after it was run."
    printf -- '-- %s: %d s\n' "$what" $((SECONDS - begin))
}

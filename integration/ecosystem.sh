#!/usr/bin/env bash
# Passes the tests with programs that others run beside a mesh: cert-manager, Prometheus, Flagger (docs/ecosystem.md). They need root and what
# integration/test.sh installs; some minutes, and at first further ones of processor time to build the programs.
#
#   integration/ecosystem.sh             everything
#   integration/ecosystem.sh --prepare   only brings the programs
set -euo pipefail
cd "$(dirname "$0")/.."

tools="$PWD/target/test-tools"
kinds="$tools/ecosystem"
mkdir -p "$tools/bin" "$kinds"

fail() { printf 'ecosystem.sh: %s\n' "$*" >&2; exit 1; }

build() { # MODULE NAME GO_ARGUMENTS...: a static program, from what Kubernetes was compiled of as far as it goes
    local module=$1 name=$2
    shift 2
    (cd "integration/ecosystem/$module" && GOTOOLCHAIN=auto GOWORK=off GOFLAGS= CGO_ENABLED=0 timeout --kill-after=60 1800 \
        go build -trimpath -buildvcs=false -mod=readonly -ldflags "-s -w" -o "$tools/bin/$name" "$@") ||
        fail "$name cannot be built, or not within 30 minutes: that needs Go 1.26 or later and the Go module index"
}

directory_of() { # MODULE PATH: where a Go module lies, downloaded and compared with go.sum
    (cd "integration/ecosystem/$1" && GOTOOLCHAIN=auto GOWORK=off GOFLAGS= go mod download -json "$2" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
}

current() { # NAME FILE...: whether the program was built of these files
    local name=$1 version
    shift
    version=$(cat "$@" | sha256sum | cut -c -16)
    [ "$(cat "$kinds/$name-version" 2>/dev/null)" = "$version" ] && [ -x "$tools/bin/$name" ] && return
    printf '%s\n' "$version" >"$kinds/$name-next"
    return 1
}

install_cert_manager() {
    local files=(integration/ecosystem/cert-manager/{go.mod,go.sum,main.go})
    current cert-manager "${files[@]}" && return
    build cert-manager cert-manager .
    rm -rf "$kinds/cert-manager"
    mkdir "$kinds/cert-manager"
    cp "$(directory_of cert-manager github.com/cert-manager/cert-manager)"/deploy/crds/*.yaml "$kinds/cert-manager/"
    mv "$kinds/cert-manager-next" "$kinds/cert-manager-version"
}

install_flagger() {
    local files=(integration/ecosystem/flagger/{go.mod,go.sum} integration/ecosystem.sh) source
    current flagger "${files[@]}" && return
    source=$(directory_of flagger github.com/fluxcd/flagger)
    rm -rf "$kinds/flagger-source" "$kinds/flagger"
    mkdir "$kinds/flagger"
    cp "$source/artifacts/flagger/crd.yaml" "$kinds/flagger/"
    # The client library of Kubernetes 1.36 has no autoscaling/v2beta2, to which Flagger falls back where an autoscaler is not found as v2. There
    # are none here; so it falls back to v2.
    cp -r --no-preserve=mode "$source" "$kinds/flagger-source"
    grep -rlE 'autoscaling/v2beta2|AutoscalingV2beta2' "$kinds/flagger-source/pkg" --include='*.go' |
        xargs sed -i 's#autoscaling/v2beta2#autoscaling/v2#; s#AutoscalingV2beta2()#AutoscalingV2()#'
    cp integration/ecosystem/flagger/go.mod "$kinds/flagger.mod"
    cp integration/ecosystem/flagger/go.sum "$kinds/flagger.sum"
    go mod edit -replace="github.com/fluxcd/flagger=$kinds/flagger-source" "$kinds/flagger.mod"
    build flagger flagger -modfile="$kinds/flagger.mod" github.com/fluxcd/flagger/cmd/flagger
    mv "$kinds/flagger-next" "$kinds/flagger-version"
}

install_prometheus() { # Debian's, without its service
    [ -x "$tools/bin/prometheus" ] && return
    local system download=(apt-get download -qq -o APT::Sandbox::User=root prometheus) # the user _apt cannot write into a directory of root
    if system=$(command -v prometheus); then
        ln -s "$system" "$tools/bin/prometheus"
        return
    fi
    command -v apt-get >/dev/null || fail "please install Prometheus, and put it into PATH"
    rm -rf "$kinds/prometheus"
    mkdir "$kinds/prometheus"
    (cd "$kinds/prometheus" && { "${download[@]}" || { apt-get update -qq && "${download[@]}"; }; } && dpkg-deb -x prometheus_*.deb .) ||
        fail "Prometheus cannot be had from the packages of this system: install it, and put it into PATH"
    cp "$kinds/prometheus/usr/bin/prometheus" "$tools/bin/prometheus"
    rm -rf "$kinds/prometheus"
}

install_prometheus
install_cert_manager
install_flagger
[ "${1:-}" = --prepare ] && exit

export CARGO_TERM_COLOR=never
cargo build --locked --quiet -p ambit
timeout --kill-after=60 2700 target/debug/ambit cluster build
# Longer than it may ever take: what hangs fails.
PATH="$tools/bin:$PATH:/usr/sbin:/sbin" timeout --kill-after=60 1800 cargo test --locked -p ambit-integration --test ecosystem

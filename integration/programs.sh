#!/usr/bin/env bash
# Builds programs that tests need, from the Go module index into target/test-tools/bin, in the versions of integration/NAME/. What is there
# already takes no time, and who comes while another one builds waits for that: integration/test.sh has them built beside everything else, and
# integration/suites.py asks for them before the suite that needs them.
#
#   integration/programs.sh NAME ...   h2spec, xds-client, helm, grpc-interop-client, grpc-interop-server;
#                                      conformance: what integration/src/bin/conformance links by itself is only compiled
set -euo pipefail
cd "$(dirname "$0")/.."

tools="$PWD/target/test-tools"

fail() { printf 'programs.sh: %s\n' "$*" >&2; exit 1; }

build() { # NAME PACKAGE TOOLCHAIN MINUTES GO [MODULE]
    local name=$1 package=$2 toolchain=$3 minutes=$4 go=$5 module=${6:-$1} version
    # One at a time, and whoever waited finds it built.
    exec 9>"$tools/$name.lock"
    flock 9
    version=$(find "integration/$module" -name 'go.*' -o -name '*.go' | LC_ALL=C sort | xargs cat | sha256sum | cut -c -16)
    if [ "$(cat "$tools/$name-version" 2>/dev/null)" = "$version" ] && [ -x "$tools/bin/$name" ]; then return; fi
    # An older one would be tested in its place if this one cannot be built.
    rm -f "$tools/bin/$name" "$tools/$name-version"
    (cd "integration/$module" && GOTOOLCHAIN=$toolchain GOWORK=off GOFLAGS='' CGO_ENABLED=0 timeout --foreground --kill-after=60 "$((minutes * 60))" \
        go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$tools/bin/$name" "$package" 9>&-) ||
        fail "$name cannot be built, or not within $minutes minutes: that needs Go $go or later and the Go module index"
    printf '%s\n' "$version" >"$tools/$name-version"
}

conformance() { # into Go's cache, with the flags of integration/src/bin/conformance/build.rs
    exec 9>"$tools/conformance.lock"
    flock 9
    (cd integration/conformance && export GOTOOLCHAIN=auto GOWORK=off GOFLAGS=-buildvcs=false CGO_ENABLED=0 &&
        timeout --foreground --kill-after=60 1800 go build -trimpath -mod=readonly tool 9>&- &&
        timeout --foreground --kill-after=60 1800 go test -c -trimpath -mod=readonly -o /dev/null . 9>&-) ||
        fail "the conformance suite cannot be compiled: that needs Go 1.26 or later and the Go module index"
}

mkdir -p "$tools/bin"
for name in "$@"; do
    case "$name" in
        # Tests the HTTP/2 of the tunnels.
        h2spec) build h2spec github.com/summerwind/h2spec/cmd/h2spec local 15 1.19 ;;
        # grpc-go as a client of the mesh, which tests discovery.
        xds-client) build xds-client . auto 15 1.25 ;;
        # grpc-go's own cases for clients and servers, through a waypoint.
        grpc-interop-client) build grpc-interop-client google.golang.org/grpc/interop/client auto 15 1.25 grpc-interop ;;
        grpc-interop-server) build grpc-interop-server google.golang.org/grpc/interop/server auto 15 1.25 grpc-interop ;;
        # Has to render the chart as `ambit install` does, and upgrades by it.
        helm) build helm helm.sh/helm/v4/cmd/helm auto 30 1.26 ;;
        # The Gateway API's own suite, and the programs of its pods.
        conformance) conformance ;;
        *) fail "there is no program $name" ;;
    esac
done

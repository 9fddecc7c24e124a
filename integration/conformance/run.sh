#!/usr/bin/env bash
# Runs the conformance suite of the Gateway API against this tree's Ambit, on a Kubernetes cluster that it starts on this machine and removes again.
# As root. docs/conformance/README.md says what comes of it; `run.sh --help` what can be asked for.
set -euo pipefail
cd "$(dirname "$0")/../.."
# Where integration/test.sh has put Envoy, for --waypoint envoy.
export PATH="$PWD/target/test-tools/bin:$PATH"
cargo build --locked --quiet -p ambit -p ambit-cni -p ambit-integration --bins
exec "${CARGO_TARGET_DIR:-target}/debug/conformance" "$@"

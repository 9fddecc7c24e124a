//go:build tools

// Package tools pins the module of Helm and what it needs; `go build` takes it from here.
package tools

import _ "helm.sh/helm/v4/cmd/helm"

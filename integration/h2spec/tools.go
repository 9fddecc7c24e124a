//go:build tools

// Package tools pins the module of h2spec and what it needs; `go build` takes it from here.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"

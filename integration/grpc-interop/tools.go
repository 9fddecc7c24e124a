//go:build tools

// Package tools pins the module of grpc-go's interop client and server and what they need; `go build` takes them from here.
package tools

import (
	_ "google.golang.org/grpc/interop/client"
	_ "google.golang.org/grpc/interop/server"
)

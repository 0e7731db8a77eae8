//go:build tools

// Package tools names the programs in Go that tests use.
package tools

import _ "github.com/summerwind/h2spec/cmd/h2spec"

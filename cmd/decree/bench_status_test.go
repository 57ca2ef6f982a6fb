package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkStatus measures status reports of many devices, of a realistic size: 20 declarations and 30 values, of which one
// has changed, or none.
func BenchmarkStatus(b *testing.B) {
	const enrollments = 2000
	const connections = 32
	for _, db := range databases() {
		b.Run(db.name, func(b *testing.B) {
			s := startDecree(b, db.flags(b)...)
			for i := range enrollments {
				code, text := s.device(fleetID(i), http.MethodPut, "/status", benchReport(0))
				require.Equal(b, http.StatusOK, code, "%s", text)
			}
			var sent atomic.Int64
			for _, kind := range []struct {
				name    string
				changes int64 // values that differ from one report of a device to its next
			}{{"one value changed", 1}, {"nothing changed", 0}} {
				b.Run(kind.name, func(b *testing.B) {
					loadWith(b, strings.TrimPrefix(s.url, "http://"), connections, func() []byte {
						n := sent.Add(1)
						body := benchReport(n * kind.changes)
						return []byte(fmt.Sprintf("PUT /status HTTP/1.1\r\nHost: decree\r\nX-Enrollment-ID: %s\r\n"+
							"X-Enrollment-Type: Device\r\nContent-Length: %d\r\n\r\n%s", fleetID(int(n%enrollments)), len(body), body))
					})
				})
			}
			require.Positive(b, s.count(`SELECT COUNT(*) FROM status_reports`))
		})
	}
}

var benchDeclarations = func() string {
	declarations := make([]string, 20)
	for i := range declarations {
		declarations[i] = fmt.Sprintf(`{"identifier":"com.example.declaration.%d","server-token":"%040d","active":true,"valid":"valid"}`, i, i)
	}
	return strings.Join(declarations, ",")
}()

var benchValues = func() string {
	values := make([]string, 29)
	for i := range values {
		values[i] = fmt.Sprintf(`"item-%d":"a value of some length %d"`, i, i)
	}
	return strings.Join(values, ",")
}()

func benchReport(n int64) string {
	return fmt.Sprintf(`{"StatusItems":{"management":{"declarations":{"configurations":[%s]}},"test":{%s,"counter":%d}}}`,
		benchDeclarations, benchValues, n)
}

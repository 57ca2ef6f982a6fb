package main

import (
	"encoding/base64"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
)

// BenchmarkChanges measures small changes through the API, many at once: one enrollment gets a set or loses it, and a
// declaration in one set or in a hundred changes.
func BenchmarkChanges(b *testing.B) {
	authorization := "Basic " + base64.StdEncoding.EncodeToString([]byte("kmfddm:"+testKey))
	request := func(method, path, body string) []byte {
		return fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: decree\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n%s",
			method, path, authorization, len(body), body)
	}
	const enrollments, declarations, sets = 10_000, 100, 100
	for _, db := range databases() {
		b.Run(db.name, func(b *testing.B) {
			s := startDecree(b, db.flags(b)...)
			for i := range declarations {
				identifier := fmt.Sprintf("own.%d", i)
				s.putTest(identifier, "first")
				s.addToSet(identifier, identifier)
			}
			s.putTest("shared", "first")
			for i := range sets {
				s.addToSet(fmt.Sprintf("shared.%d", i), "shared")
			}
			s.waitFanouts()
			var n atomic.Int64
			kind := func(name string, make func(n int64) []byte) {
				b.Run(name, func(b *testing.B) {
					loadWith(b, strings.TrimPrefix(s.url, "http://"), benchConnections, func() []byte { return make(n.Add(1)) })
					s.waitFanouts()
				})
			}
			kind("enrollment", func(n int64) []byte {
				method := [...]string{"PUT", "DELETE"}[n/enrollments%2]
				return request(method, "/v1/enrollment-sets/"+fleetID(int(n%enrollments))+"?verbose=1&set=fleet", "")
			})
			kind("declaration", func(n int64) []byte {
				return request("PUT", "/v1/declarations?verbose=1", declarationJSON(fmt.Sprintf("own.%d", n%declarations),
					"com.apple.configuration.management.test", fmt.Sprintf(`{"Echo":"%d"}`, n)))
			})
			kind("declaration-in-100-sets", func(n int64) []byte {
				return request("POST", "/v1/declarations/shared/touch?verbose=1", "")
			})
		})
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/decree-ddm/decree/ddm"
)

// The world of the concurrency test: few things, so that many writers meet.
const (
	crowdDeclarations = 6
	crowdSets         = 4
	crowdEnrollments  = 8
	crowdWriters      = 50
	crowdChanges      = 12 // of each writer
	crowdRounds       = 40 // of each reader at most
)

func crowdDeclaration(i int) string { return fmt.Sprint("crowd.", i) }
func crowdSet(i int) string         { return fmt.Sprint("crowd-", i) }
func crowdEnrollment(i int) string  { return fmt.Sprint("CROWD-", i) }

// crowdChange returns a random request for a change.
func crowdChange(random *rand.Rand) (method, path, body string) {
	declaration := crowdDeclaration(random.IntN(crowdDeclarations))
	set := crowdSet(random.IntN(crowdSets))
	enrollment := crowdEnrollment(random.IntN(crowdEnrollments))
	switch random.IntN(12) {
	case 0, 1, 2, 3:
		return http.MethodPut, "/v1/declarations", declarationJSON(declaration,
			"com.apple.configuration.management.test", fmt.Sprintf(`{"Echo":"%d"}`, random.IntN(4)))
	case 4:
		return http.MethodPut, "/v1/declarations", declarationJSON("crowd.activation",
			"com.apple.activation.simple", fmt.Sprintf(`{"StandardConfigurations":[%q]}`, declaration))
	case 5:
		return http.MethodPost, "/v1/declarations/" + declaration + "/touch", ""
	case 6:
		return http.MethodDelete, "/v1/declarations/" + declaration, ""
	case 7:
		return http.MethodDelete, "/v1/set-declarations/" + set + "?declaration=" + declaration, ""
	case 8:
		return http.MethodDelete, "/v1/enrollment-sets/" + enrollment + "?set=" + set, ""
	case 9:
		return http.MethodPut, "/v1/enrollment-sets/" + enrollment + "?set=" + set, ""
	case 10:
		return http.MethodPut, "/v1/set-declarations/" + set + "?declaration=crowd.activation", ""
	default:
		return http.MethodPut, "/v1/set-declarations/" + set + "?declaration=" + declaration, ""
	}
}

// bodies remembers what was served of every version of every declaration.
type bodies struct{ sync.Map }

func (b *bodies) check(identifier string, body []byte) error {
	var declaration struct{ Identifier, ServerToken string }
	if err := json.Unmarshal(body, &declaration); err != nil {
		return err
	}
	if declaration.Identifier != identifier || declaration.ServerToken == "" {
		return fmt.Errorf("asked for declaration %s and got %s", identifier, body)
	}
	first, _ := b.LoadOrStore(identifier+" "+declaration.ServerToken, string(body))
	if first != string(body) {
		return fmt.Errorf("two contents of one version: %s and %s", first, body)
	}
	return nil
}

// deviceGet sends a device's request that must succeed. Any goroutine may call it.
func deviceGet(server, enrollmentID, path string) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, server+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Enrollment-ID", enrollmentID)
	request.Header.Set("X-Enrollment-Type", "Device")
	code, body, err := exchange(request)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s of %s: %d %s", path, enrollmentID, code, body)
	}
	return body, err
}

// synchronizeOnce asks what a device asks, each time any of the servers, and checks that the answers fit together.
func synchronizeOnce(random *rand.Rand, servers []string, enrollmentID string, served *bodies) error {
	server := func() string { return servers[random.IntN(len(servers))] }
	if _, err := deviceGet(server(), enrollmentID, "/tokens"); err != nil {
		return err
	}
	body, err := deviceGet(server(), enrollmentID, "/declaration-items")
	if err != nil {
		return err
	}
	var manifest struct{ DeclarationsToken string }
	if err := json.Unmarshal(body, &manifest); err != nil {
		return err
	}
	items, err := ddm.ParseDeclarationItems(body)
	if err != nil {
		return err
	}
	if computed := ddm.DeclarationsToken(items); computed != manifest.DeclarationsToken {
		return fmt.Errorf("the token of %s should be %s", body, computed)
	}
	for _, item := range items {
		body, err := deviceGet(server(), enrollmentID, "/declaration/"+string(item.Class)+"/"+item.Identifier)
		if err != nil {
			return fmt.Errorf("of manifest %s: %w", manifest.DeclarationsToken, err)
		}
		if err := served.check(item.Identifier, body); err != nil {
			return err
		}
	}
	return nil
}

// composedFromLists is the token of an enrollment as anybody can compute it from the lists of the API.
func (s *server) composedFromLists(enrollmentID string) string {
	s.t.Helper()
	var sets []string
	s.get("/v1/enrollment-sets/"+enrollmentID, &sets)
	var items []ddm.Item
	for _, set := range sets {
		var identifiers []string
		s.get("/v1/set-declarations/"+set, &identifiers)
		for _, identifier := range identifiers {
			var declaration struct{ Identifier, Type, ServerToken string }
			s.get("/v1/declarations/"+identifier, &declaration)
			class, err := ddm.ClassOfType(declaration.Type)
			require.NoError(s.t, err)
			items = append(items, ddm.Item{
				Class: class, Identifier: declaration.Identifier, ServerToken: declaration.ServerToken,
			})
		}
	}
	return ddm.DeclarationsToken(items)
}

// TestCrowd has many admins change the same few things while devices synchronize.
func TestCrowd(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		servers := []*server{startDecree(t, flags...)}
		if onMySQL(flags) {
			servers = append(servers, startDecree(t, flags...))
		}
		var urls []string
		for _, s := range servers {
			urls = append(urls, s.url)
		}
		for i := range crowdDeclarations {
			servers[0].putTest(crowdDeclaration(i), "first")
		}
		for i := range crowdEnrollments {
			servers[0].assign(crowdEnrollment(i), crowdSet(i%crowdSets))
		}

		var writers, readers errgroup.Group
		var busy atomic.Int64
		for i := range crowdWriters {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			writers.Go(func() error { return writeInCrowd(random, urls[i%len(urls)], &busy) })
		}
		written := make(chan struct{})
		served := &bodies{}
		for i := range crowdEnrollments {
			random := rand.New(rand.NewPCG(2, uint64(i)))
			readers.Go(func() error {
				for range crowdRounds {
					if err := synchronizeOnce(random, urls, crowdEnrollment(i), served); err != nil {
						return err
					}
					select {
					case <-written:
						return nil
					default:
					}
				}
				return nil
			})
		}
		writeErr := writers.Wait()
		close(written)
		require.NoError(t, readers.Wait())
		require.NoError(t, writeErr)
		require.Less(t, busy.Load(), int64(crowdWriters*crowdChanges/4), "answers that somebody must try again")

		composed := 0
		for i := range crowdEnrollments {
			id := crowdEnrollment(i)
			token := servers[0].composedFromLists(id)
			for _, s := range servers {
				require.Equal(t, token, s.agreedToken(id))
				require.NoError(t, synchronizeOnce(rand.New(rand.NewPCG(3, 0)), []string{s.url}, id, served))
			}
			if token != ddm.DeclarationsToken(nil) {
				composed++
			}
		}
		require.NotZero(t, composed, "the crowd left nothing to look at")
	})
}

// writeInCrowd changes things at random. Every answer must say what became of the change, or that it must be tried again, as
// on a slow machine.
func writeInCrowd(random *rand.Rand, server string, busy *atomic.Int64) error {
	allowed := []int{
		http.StatusNoContent, http.StatusNotModified,
		http.StatusNotFound,            // somebody deleted the declaration
		http.StatusConflict,            // somebody uses it
		http.StatusUnprocessableEntity, // somebody deleted what it refers to
	}
	for range crowdChanges {
		method, path, body := crowdChange(random)
		code, text := http.StatusServiceUnavailable, []byte(nil)
		for code == http.StatusServiceUnavailable {
			request, err := http.NewRequest(method, server+path, strings.NewReader(body))
			if err != nil {
				return err
			}
			request.SetBasicAuth("kmfddm", testKey)
			if code, text, err = exchange(request); err != nil {
				return err
			}
			if code == http.StatusServiceUnavailable {
				busy.Add(1)
			}
		}
		if !slices.Contains(allowed, code) {
			return fmt.Errorf("%s %s: %d %s", method, path, code, text)
		}
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/ddm"
	"github.com/decree-ddm/decree/notifier/nanomdm/nanomdmtest"
)

const shardPath = "/declaration/management/com.github.decree-ddm.shard"

// shardOf is an enrollment's shard number and token, once all that a device can ask for agrees in them.
func (s *server) shardOf(enrollmentID string) (shard int, token string) {
	s.t.Helper()
	token = s.agreedToken(enrollmentID)
	_, items := s.manifest(enrollmentID)
	var declaration struct {
		Identifier, Type, ServerToken string
		Payload                       map[string]json.Number
	}
	s.observe(enrollmentID, shardPath, &declaration)
	require.Equal(s.t, "com.github.decree-ddm.shard", declaration.Identifier)
	require.Equal(s.t, "com.apple.management.properties", declaration.Type)
	require.Contains(s.t, items, ddm.Item{
		Class: ddm.ClassManagement, Identifier: declaration.Identifier, ServerToken: declaration.ServerToken,
	})
	require.Len(s.t, declaration.Payload, 1)
	number, err := declaration.Payload["shard"].Int64()
	require.NoError(s.t, err)
	require.True(s.t, number >= 0 && number <= 100, "%d", number)
	return int(number), token
}

// TestShard checks that -shard gives every enrollment its number, the same wherever and whenever it is asked for.
func TestShard(t *testing.T) {
	type result struct {
		Shard int
		Token string
	}
	sameOnEachDatabase(t, func(t *testing.T, flags []string) map[string]result {
		s := startDecree(t, append(flags, "-shard")...)
		s.putTest("test.echo", "first")
		s.addToSet("base", "test.echo")
		shards := func(s *server) map[string]result {
			results := map[string]result{}
			for i := range 60 {
				id := fmt.Sprint("SHARD-", i)
				shard, token := s.shardOf(id)
				results[id] = result{shard, token}
			}
			return results
		}
		for i := range 10 {
			s.assign(fmt.Sprint("SHARD-", i), "base")
		}
		before := shards(s)
		numbers, tokens := map[int]bool{}, map[string]bool{}
		for _, r := range before {
			numbers[r.Shard] = true
			tokens[r.Token] = true
		}
		require.Greater(t, len(numbers), 30, "enrollments are spread")
		require.Greater(t, len(tokens), len(numbers), "the shard is a part of the composition")
		s.restart()
		require.Equal(t, before, shards(s), "after a restart")
		if onMySQL(flags) {
			require.Equal(t, before, shards(startDecree(t, append(flags, "-shard")...)), "on another server")
		}
		return before
	})
}

// TestShardIsSwitched checks that devices are told by themselves when servers are started with -shard, one after the other
// where there are two, and again when they are started without it; and that who is held stays so.
func TestShardIsSwitched(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		defer cancel()
		nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
		flags = append(flags, "-enqueue", nano.EnqueueURL(), "-enqueue-key", nano.APIKey())
		s := beside(t, nano, flags)
		servers := []*server{s}
		if onMySQL(flags) {
			servers = append(servers, startDecree(t, flags...))
		}
		s.putTest("test.echo", "first")
		s.addToSet("base", "test.echo")
		s.putTest("test.other", "first")
		s.addToSet("other", "test.other")
		device, held := nano.NewDevice(t), nano.NewDevice(t)
		for _, d := range []*nanomdmtest.Device{device, held} {
			require.NoError(t, d.Enroll(ctx))
			s.assign(d.ID(), "base")
			d.Run(ctx)
		}
		s.waitIdle(device.ID(), held.ID())
		s.change(http.MethodPut, "/v1/enrollment-sets/"+held.ID()+"?set=other&nonotify=1", "")

		switchTo := func(shard bool) {
			for _, one := range servers {
				one.stop()
				one.args = slices.DeleteFunc(one.args, func(argument string) bool { return argument == "-shard" })
				if shard {
					one.args = append(one.args, "-shard")
				}
				one.start()
				nano.SetDM(one.url + "/")
			}
			require.NoError(t, device.WaitSync(ctx, s.token(device.ID())))
			s.waitIdle(device.ID())
			_, there := device.Declarations()[ddm.ShardIdentifier]
			require.Equal(t, shard, there)
			require.True(t, s.enrollment(held.ID()).Held)
		}
		switchTo(true)
		switchTo(false)
		s.check()
	})
}

// TestShardIdentifierIsReserved checks that nobody can put a declaration in the place of the shard's.
func TestShardIdentifierIsReserved(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		for _, more := range [][]string{{"-shard"}, nil} {
			s := startDecree(t, append(flags, more...)...)
			code, text := s.do(http.MethodPut, "/v1/declarations",
				declarationJSON("com.github.decree-ddm.shard", "com.apple.management.properties", `{"shard":1}`))
			require.Equal(t, http.StatusBadRequest, code)
			require.Contains(t, string(text), "reserved")
			code, _ = s.do(http.MethodPut, "/v1/set-declarations/x?declaration=com.github.decree-ddm.shard", "")
			require.Equal(t, http.StatusNotFound, code)
			s.stop()
		}
		s := startDecree(t, flags...)
		require.Equal(t, ddm.DeclarationsToken(nil), s.agreedToken("one"))
		code, _ := s.device("one", http.MethodGet, shardPath, "")
		require.Equal(t, http.StatusNotFound, code)
	})
}

// TestDeviceWithShard checks that a device behind NanoMDM gets its shard number with its declarations.
func TestDeviceWithShard(t *testing.T) {
	eachDatabase(t, func(t *testing.T, flags []string) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		nano := nanomdmtest.Start(t, nanomdmtest.WithMemoryStorage())
		s := beside(t, nano, append(flags, "-shard"))
		device := nano.NewDevice(t)
		require.NoError(t, device.Enroll(ctx))
		s.putTest("test.echo", "first")
		s.addToSet("base", "test.echo")
		s.assign(device.ID(), "base")
		require.NoError(t, device.WaitPush(ctx))
		shard, token := s.shardOf(device.ID())
		requireTokens(t, token, nano.Enqueued()[0].Data)
		require.NoError(t, device.Poll(ctx))
		s.waitIdle(device.ID())
		require.Equal(t, token, device.DeclarationsToken())
		held := device.Declarations()
		require.Len(t, held, 2)
		require.Contains(t, string(held["com.github.decree-ddm.shard"].JSON), fmt.Sprintf(`{"shard":%d}`, shard))
		status := s.declarationStatus(device.ID())
		require.True(t, status["com.github.decree-ddm.shard"].Current)
		require.True(t, status["test.echo"].Current)

		// Its sets change; its shard does not.
		device.ClearTrace()
		s.change(http.MethodDelete, "/v1/enrollment-sets/"+device.ID()+"?set=base", "")
		require.NoError(t, device.WaitPush(ctx))
		require.NoError(t, device.Poll(ctx))
		require.Equal(t, []string{"declaration-items", "tokens", "status"}, device.Trace())
		require.Len(t, device.Declarations(), 1)
		require.Len(t, nano.Enqueued(), 2)
	})
}

package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestReloader checks that every way of changing files is seen, once, and that what is broken is told once.
func TestReloader(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	first := writeFile(t, filepath.Join(directory, "first"), "1")
	second := writeFile(t, filepath.Join(directory, "second"), "a")
	var log output
	var loaded []string
	r, err := newReloader("things", []string{first, second}, func(contents [][]byte) error {
		text := string(contents[0]) + string(contents[1])
		if strings.Contains(text, "broken") {
			return errors.New("something is wrong in line 7")
		}
		loaded = append(loaded, text)
		return nil
	}, slog.New(slog.NewTextHandler(&log, nil)))
	require.NoError(t, err)
	rest := func() {
		for range 4 {
			r.poll()
		}
	}
	check := func(failures int, want ...string) {
		t.Helper()
		rest()
		require.Equal(t, want, loaded)
		require.Equal(t, failures, strings.Count(log.String(), "cannot be read again"), log.String())
		require.Equal(t, len(want)-1, strings.Count(log.String(), "were read again"))
	}
	check(0, "1a")
	replaceFile(t, first, "2")
	check(0, "1a", "2a")
	information, err := os.Stat(second)
	require.NoError(t, err)
	writeFile(t, second, "b")
	require.NoError(t, os.Chtimes(second, time.Time{}, information.ModTime()))
	check(0, "1a", "2a", "2b")
	require.NoError(t, os.Chtimes(second, time.Time{}, time.Now().Add(time.Hour)))
	check(0, "1a", "2a", "2b")

	writeFile(t, first, "half")
	r.poll()
	writeFile(t, first, "half and whole ")
	r.poll()
	require.Len(t, loaded, 3, "what is being written is not read yet")
	check(0, "1a", "2a", "2b", "half and whole b")

	writeFile(t, first, "broken")
	check(1, "1a", "2a", "2b", "half and whole b")
	require.Contains(t, log.String(), "line 7")
	writeFile(t, first, "half and whole ")
	check(1, "1a", "2a", "2b", "half and whole b", "half and whole b")
	require.NoError(t, os.Remove(second))
	check(2, "1a", "2a", "2b", "half and whole b", "half and whole b")
	writeFile(t, second, "c")
	check(2, "1a", "2a", "2b", "half and whole b", "half and whole b", "half and whole c")

	_, err = newReloader("things", []string{first, second + "x"}, nil, nil)
	require.ErrorContains(t, err, second+"x")
}

// TestReloaderStops checks that it can be stopped at any time, also before it was started, and again.
func TestReloaderStops(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "file"), "1")
	for _, begin := range []func(*reloader){func(*reloader) {}, (*reloader).Start} {
		r, err := newReloader("things", []string{file}, func([][]byte) error { return nil }, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		begin(r)
		r.Stop()
		r.Stop()
		r.Start()
	}
}

// TestReloaderThatHangs does not keep the server from stopping.
func TestReloaderThatHangs(t *testing.T) {
	t.Parallel()
	file := writeFile(t, filepath.Join(t.TempDir(), "file"), "1")
	hangs, release := make(chan struct{}), make(chan struct{})
	r, err := newReloader("things", []string{file}, func(contents [][]byte) error {
		if string(contents[0]) != "1" {
			close(hangs)
			<-release
		}
		return nil
	}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	r.Start()
	replaceFile(t, file, "2")
	<-hangs
	r.Stop()
	close(release)
	<-r.stopped
}

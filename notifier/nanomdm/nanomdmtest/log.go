package nanomdmtest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/micromdm/nanolib/log"
)

// logSink writes NanoMDM's log to the test's, when that is verbose, until the
// test ends: NanoMDM sends its events from goroutines that nobody waits for.
type logSink struct {
	mutex  sync.Mutex
	tb     testing.TB
	closed bool
}

func newLogSink(tb testing.TB) *logSink { return &logSink{tb: tb} }

func (s *logSink) close() {
	s.mutex.Lock()
	defer s.mutex.Unlock()

	s.closed = true
}

func (s *logSink) write(level string, pairs []any) {
	var line strings.Builder

	line.WriteString("NanoMDM " + level)

	for pair := range slices.Chunk(pairs, 2) {
		if len(pair) == 2 {
			fmt.Fprintf(&line, " %v=%v", pair[0], pair[1])
		} else {
			fmt.Fprintf(&line, " %v", pair[0])
		}
	}

	s.mutex.Lock()
	defer s.mutex.Unlock()

	if !s.closed {
		s.tb.Log(line.String())
	}
}

func (s *logSink) logger() log.Logger {
	if !testing.Verbose() {
		return log.NopLogger
	}

	return &sinkLogger{sink: s}
}

// sinkLogger is NanoMDM's kind of logger on a logSink.
type sinkLogger struct {
	sink    *logSink
	context []any
}

// Info logs at level info.
func (l *sinkLogger) Info(pairs ...any) { l.sink.write("info", slices.Concat(l.context, pairs)) }

// Debug logs at level debug.
func (l *sinkLogger) Debug(pairs ...any) { l.sink.write("debug", slices.Concat(l.context, pairs)) }

// With returns a logger that puts the pairs before its own.
func (l *sinkLogger) With(pairs ...any) log.Logger {
	return &sinkLogger{sink: l.sink, context: slices.Concat(l.context, pairs)}
}

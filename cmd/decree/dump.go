package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
)

// statusDump writes status reports, a line each. Where it cannot, reports are left out, and nobody fails for it.
type statusDump struct {
	output io.Writer
	logger *slog.Logger

	mu      sync.Mutex
	leftOut int // reports in a row
}

// statusDump returns what writes status reports to the file of that name, or nil where there is none.
func (p *program) statusDump(name string, stdout io.Writer) (func(string, []byte), error) {
	if name == "" {
		return nil, nil
	}
	dump := &statusDump{output: stdout, logger: p.logger}
	if name != "-" {
		file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) // #nosec G304 G703 -- the operator names it
		if err != nil {
			return nil, fmt.Errorf("-dump-status: %w", err)
		}
		p.closers = append(p.closers, file)
		dump.output = &lines{output: file}
	}
	return dump.write, nil
}

// write adds a report.
func (d *statusDump) write(enrollmentID string, report []byte) {
	var line bytes.Buffer
	if json.Compact(&line, report) == nil {
		line.WriteByte('\n')
	} else {
		// What is no JSON may hold line breaks, and look like several reports: it becomes one string.
		line.Reset()
		_ = json.NewEncoder(&line).Encode(string(report)) // never fails, and ends the line
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.output.Write(line.Bytes()); err != nil {
		if d.leftOut++; d.leftOut == 1 {
			d.logger.Error("status reports cannot be dumped, and are left out", "enrollment_id", enrollmentID, "error", err)
		}
		return
	}
	if d.leftOut > 0 {
		d.logger.Warn("status reports are dumped again", "left_out", d.leftOut)
		d.leftOut = 0
	}
}

// lines writes to what can be full: a line of which a part was written only does not run into the next one. It is not safe for
// concurrent use.
type lines struct {
	output io.Writer
	half   bool // a part of a line is there
}

// Write writes a line.
func (l *lines) Write(line []byte) (int, error) {
	if l.half {
		if _, err := l.output.Write([]byte{'\n'}); err != nil {
			return 0, err
		}
	}
	written, err := l.output.Write(line)
	l.half = err != nil && written > 0
	return written, err
}

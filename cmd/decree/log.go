package main

import (
	"io"
	"log/slog"
)

// newLogger returns the logger of the server, for the format and the level that the flags name.
func newLogger(config *config, output io.Writer) *slog.Logger {
	output = &lines{output: output} // handlers write one line at a time
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if config.debug {
		options.Level = slog.LevelDebug
	}
	if config.logFormat != "json" {
		return slog.New(slog.NewTextHandler(output, options))
	}
	options.ReplaceAttr = func(_ []string, attribute slog.Attr) slog.Attr {
		if attribute.Value.Kind() == slog.KindDuration {
			// It would be a number of nanoseconds, and nobody expects that.
			attribute.Value = slog.Float64Value(attribute.Value.Duration().Seconds())
		}
		return attribute
	}
	return slog.New(slog.NewJSONHandler(output, options))
}

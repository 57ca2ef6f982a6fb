// Package eventlog keeps the log of happenings going: a Sequencer has what was noted get its place in the log, and a Poster
// posts the log to a URL. All state is in storage, so that any number of servers can share the work and any of them can
// die. What is worth telling is decided where it happens.
package eventlog

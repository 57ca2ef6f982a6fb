//go:build race

package main

// fleetSize is how many enrollments the large fleet has. The race detector makes SQLite, which is Go here, ten times
// slower.
const fleetSize = 2_000

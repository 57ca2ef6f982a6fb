//go:build !race

package main

// fleetSize is how many enrollments the large fleet has.
const fleetSize = 10_000

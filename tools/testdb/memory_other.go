//go:build !linux

package main

func memoryDirectory() string { return "" }

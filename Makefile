# `make run` builds and starts the server, `make test` runs every test; `make help` lists the rest.

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
PACKAGES  ?= ./...
TESTFLAGS ?= -race -timeout 15m
BENCH     ?= .
BENCHTIME ?= 1s
SOAK      ?= 1h
SOAK_SPEED ?= 36
RUN_FLAGS ?=

# SQLite is C made into Go. The race detector would follow all of its memory, which is not Go's, and take ten times the time.
UNRACED := modernc.org/sqlite/lib modernc.org/libc

.DEFAULT_GOAL := build
.PHONY: build run test test-quick bench soak check fmt generate release image clean help

build: ## build bin/decree, a static binary
	CGO_ENABLED=0 go build -trimpath -ldflags "-X main.version=$(VERSION)" -o bin/ ./cmd/...

run: build ## build and start the server on :9002 with SQLite (RUN_FLAGS: more flags for it)
	@tools/run.sh $(RUN_FLAGS)

test: ## run every test, with databases and the race detector (PACKAGES, TESTFLAGS)
	@$(if $(filter -race,$(TESTFLAGS)),tools/require.sh cc)
	go run ./tools/testdb -- go test $(if $(filter -race,$(TESTFLAGS)),$(UNRACED:%=-gcflags='%=-race=false')) $(TESTFLAGS) $(PACKAGES)

test-quick: ## run the tests that need no database server (PACKAGES)
	go test $(PACKAGES)

bench: ## run the benchmarks, on databases that are as durable as in production (PACKAGES, BENCH, BENCHTIME)
	go run ./tools/testdb -durable -postgres=false -- go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) $(PACKAGES)

soak: ## run a day and a half of mixed load in an hour, on both databases (SOAK: how long, SOAK_SPEED: how much faster the clock goes)
	go run ./tools/testdb -postgres=false -- go test -count=1 -run '^TestSoak$$' -v -timeout 0 ./cmd/decree \
		-soak $(SOAK) -soak-speed $(SOAK_SPEED)

check: ## run everything that a change must pass besides the tests
	@tools/check.sh

fmt: ## format the Go files
	gofmt -w .

generate: ## generate what is generated
	go generate ./...

release: ## build the archives for every platform, with checksums, in bin/release (VERSION, PLATFORMS)
	@VERSION='$(VERSION)' tools/release.sh

image: ## build the container image decree:VERSION from a binary that is built here (IMAGE_FLAGS: more for docker build)
	@VERSION='$(VERSION)' tools/image.sh $(IMAGE_FLAGS)

clean: ## delete what was built
	rm -rf bin

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

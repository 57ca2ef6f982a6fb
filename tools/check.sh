#!/usr/bin/env bash
# check.sh — everything that a change must pass besides the tests. All checks run, whichever fail.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/check.sh
set -euo pipefail
cd "$(dirname "$0")/.."

failed=()

check() {
	local name=$1
	shift
	echo "== $name"
	"$@" || failed+=("$name")
}

formatted() {
	local files
	files=$(gofmt -l .) || return
	if [ -n "$files" ]; then
		echo "not formatted (make fmt):"
		echo "$files"
		return 1
	fi
}

# files lists the files of the working tree that git doesn't ignore.
files() {
	local names file
	names=$(git -c core.quotePath=off ls-files --cached --others --exclude-standard) || return
	while IFS= read -r file; do
		if [ -f "$file" ]; then
			echo "$file"
		fi
	done <<<"$names" | sort -u
}

# snapshot lists the same files with the hashes of their contents.
snapshot() {
	local names hashes
	names=$(files) || return
	hashes=$(git hash-object --stdin-paths <<<"$names") || return
	paste <(echo "$names") <(echo "$hashes")
}

# generated compares with the tree as it was, not with the last commit, so that it can be run before a commit too.
generated() {
	local before after
	before=$(snapshot) || return
	go generate ./... || return
	after=$(snapshot) || return
	if ! diff <(echo "$before") <(echo "$after"); then
		echo "go generate changed these files: commit what it makes"
		return 1
	fi
}

shell_scripts() {
	local names file first scripts=()
	names=$(files) || return
	while IFS= read -r file; do
		first=
		IFS= read -r first <"$file" || true
		if [[ $file == *.sh || $first =~ ^#!.*[/\ ](ba)?sh( |$) ]]; then
			scripts+=("$file")
		fi
	done <<<"$names"
	if [ ${#scripts[@]} -eq 0 ]; then
		return
	fi
	if ! tools/require.sh shellcheck; then
		echo "skipped: shellcheck isn't installed"
		return
	fi
	shellcheck "${scripts[@]}"
}

# security looks at what is not a test: tests make files that all may read, and start what they are told to, on purpose.
security() {
	local program
	program=$(go -C tools/lint tool -n lint) || return
	"$program" -test=false ./...
}

# The tools that are not for this module's go.mod, which whoever builds Decree reads, are a module of their own.
check gofmt formatted
check "go vet" go vet ./...
check "go vet of tools/lint" go -C tools/lint vet ./...
check staticcheck go tool staticcheck ./...
check gosec security
check govulncheck tools/vulnerabilities.sh
check "go mod tidy" go mod tidy -diff
check "go mod tidy of tools/lint" go -C tools/lint mod tidy -diff
check "go generate" generated
check shellcheck shell_scripts

if [ ${#failed[@]} -gt 0 ]; then
	(
		IFS=,
		echo "failed: ${failed[*]}" >&2
	)
	exit 1
fi

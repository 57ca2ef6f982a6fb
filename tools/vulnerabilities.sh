#!/usr/bin/env bash
# vulnerabilities.sh [PACKAGE...]: fails if packages, by default all, call something that is known to be vulnerable. The
# database of vulnerabilities is GOVULNDB, a URL, by default https://vuln.go.dev. Where nothing leads to that one, as on a
# machine without the internet, it says that it did not check; every other failure is one.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/vulnerabilities.sh
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- ./...
program=$(go -C tools/lint tool -n govulncheck)
found=$(mktemp)
said=$(mktemp)
trap 'rm -f "$found" "$said"' EXIT

status=0
"$program" -db "${GOVULNDB:-https://vuln.go.dev}" "$@" >"$found" 2>"$said" || status=$?
cat "$found"
cat "$said" >&2

# No connection, or a proxy that lets nobody through. An answer that is wrong is another thing.
away='^govulncheck: fetching vulnerabilities: Get "https://vuln\.go\.dev/[^"]*": '
away+='(dial tcp[ :]|proxyconnect tcp: dial tcp[ :]|Forbidden$|Bad Gateway$|Service Unavailable$|Gateway Timeout$)'
if [ "$status" -ne 0 ] && grep -qE "$away" "$said"; then
	echo "skipped: the database of vulnerabilities cannot be reached (GOVULNDB names another one)"
	exit
fi
# Where it breaks off, its exit code can still be 0.
if [ "$status" -eq 0 ] && ! grep -q '^No vulnerabilities found' "$found"; then
	echo "govulncheck did not come to its end" >&2
	exit 1
fi
exit "$status"

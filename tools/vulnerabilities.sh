#!/usr/bin/env bash
# vulnerabilities.sh [PACKAGE...]: fails if packages, by default all, call something that is known to be vulnerable. The
# database of vulnerabilities is GOVULNDB, a URL, by default https://vuln.go.dev. Where nothing leads to that one, as on a
# machine without the internet, it says that it did not check; every other failure is one.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/vulnerabilities.sh
set -euo pipefail
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- ./...
program=$(go -C tools/lint tool -n govulncheck)
said=$(mktemp)
trap 'rm -f "$said"' EXIT

status=0
"$program" -db "${GOVULNDB:-https://vuln.go.dev}" "$@" 2>"$said" || status=$?
cat "$said" >&2

# No connection, or a proxy that lets nobody through. An answer that is wrong is another thing.
away='^govulncheck: fetching vulnerabilities: Get "https://vuln\.go\.dev/[^"]*": '
away+='(dial tcp[ :]|proxyconnect tcp: dial tcp[ :]|Forbidden$|Bad Gateway$|Service Unavailable$|Gateway Timeout$)'
if [ "$status" -ne 0 ] && grep -qE "$away" "$said"; then
	echo "skipped: the database of vulnerabilities cannot be reached (GOVULNDB names another one)"
	exit
fi
exit "$status"

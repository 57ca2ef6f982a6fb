#!/usr/bin/env bash
# api-declaration-put.sh FILE — upload a declaration from a file, or with - from standard input.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-declaration-put.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
if [ "$1" != - ] && { [ -d "$1" ] || [ ! -r "$1" ]; }; then
	say "there is no file to read at $1"
	exit "$misused"
fi
change PUT declarations --header "Content-Type: application/json" --upload-file "$1"

#!/usr/bin/env bash
# declaration-versions-get.sh IDENTIFIER [TOKEN] — list the versions of a declaration that are kept, or print one.
#
# TOKEN is the ServerToken of the version to print.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/declaration-versions-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 2 "$@"
if [ -n "${2:-}" ]; then
	get "declaration-versions/$(encode "$1")?token=$(encode "$2")"
	exit
fi
get_pages "declaration-versions/$(encode "$1")" 'limit=1000' 1

#!/usr/bin/env bash
# declaration-rollback.sh IDENTIFIER TOKEN — make the content of an earlier version of a declaration current again.
#
# TOKEN is the ServerToken of the version, as declaration-versions-get.sh lists them. The declaration may have been deleted.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/declaration-rollback.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 2 2 "$@"
change POST "declarations/$(encode "$1")/rollback?to=$(encode "$2")"

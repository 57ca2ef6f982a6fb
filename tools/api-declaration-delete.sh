#!/usr/bin/env bash
# api-declaration-delete.sh IDENTIFIER — delete a declaration that no set and no other declaration uses.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-declaration-delete.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
change DELETE "declarations/$(encode "$1")"

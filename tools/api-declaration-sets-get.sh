#!/usr/bin/env bash
# api-declaration-sets-get.sh IDENTIFIER — list the sets that hold a declaration.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-declaration-sets-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
get "declaration-sets/$(encode "$1")"

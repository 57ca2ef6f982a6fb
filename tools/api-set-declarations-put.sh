#!/usr/bin/env bash
# api-set-declarations-put.sh SET IDENTIFIER — add a declaration to a set.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-set-declarations-put.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 2 2 "$@"
change PUT "set-declarations/$(encode "$1")?declaration=$(encode "$2")"

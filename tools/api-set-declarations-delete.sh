#!/usr/bin/env bash
# api-set-declarations-delete.sh SET IDENTIFIER — take a declaration out of a set.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-set-declarations-delete.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 2 2 "$@"
change DELETE "set-declarations/$(encode "$1")?declaration=$(encode "$2")"

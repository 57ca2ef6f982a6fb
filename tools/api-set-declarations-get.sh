#!/usr/bin/env bash
# api-set-declarations-get.sh SET — list the declarations of a set.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-set-declarations-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
get "set-declarations/$(encode "$1")"

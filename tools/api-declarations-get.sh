#!/usr/bin/env bash
# api-declarations-get.sh — list the identifiers of all declarations.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-declarations-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 0 0 "$@"
get declarations

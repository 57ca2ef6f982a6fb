#!/usr/bin/env bash
# api-status-errors-get.sh ENROLLMENT-ID[,ENROLLMENT-ID…] — print the newest errors that devices reported.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-status-errors-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
get "status-errors/$(encode "$1")"

#!/usr/bin/env bash
# api-status-values-get.sh ENROLLMENT-ID[,ENROLLMENT-ID…] [PATTERN] — print what devices reported of themselves.
#
# PATTERN is one for paths as in SQL's LIKE: .StatusItems.device.% are all values that begin with .StatusItems.device.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-status-values-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 2 "$@"
get "status-values/$(encode "$1")?prefix=$(encode "${2:-}")"

#!/usr/bin/env bash
# api-status-declaration-get.sh ENROLLMENT-ID[,ENROLLMENT-ID…] — print what devices made of their declarations.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-status-declaration-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
get "declaration-status/$(encode "$1")"

#!/usr/bin/env bash
# api-declaration-get.sh IDENTIFIER — print a declaration, with its ServerToken.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-declaration-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
get "declarations/$(encode "$1")"

#!/usr/bin/env bash
# api-declaration-get.sh IDENTIFIER — print a declaration, with its ServerToken.
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
get "declarations/$(encode "$1")"

#!/usr/bin/env bash
# api-declarations-get.sh — list the identifiers of all declarations.
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 0 0 "$@"
get declarations

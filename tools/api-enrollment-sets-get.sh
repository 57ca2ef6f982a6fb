#!/usr/bin/env bash
# api-enrollment-sets-get.sh ENROLLMENT-ID — list the sets of an enrollment.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-enrollment-sets-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
get "enrollment-sets/$(encode "$1")"

#!/usr/bin/env bash
# api-enrollment-sets-delete.sh ENROLLMENT-ID SET — take a set away from an enrollment.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-enrollment-sets-delete.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 2 2 "$@"
change DELETE "enrollment-sets/$(encode "$1")?set=$(encode "$2")"

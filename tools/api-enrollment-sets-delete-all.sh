#!/usr/bin/env bash
# api-enrollment-sets-delete-all.sh ENROLLMENT-ID — take all sets away from an enrollment.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-enrollment-sets-delete-all.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
change DELETE "enrollment-sets-all/$(encode "$1")"

#!/usr/bin/env bash
# api-enrollment-sets-delete-all.sh ENROLLMENT-ID — take all sets away from an enrollment.
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
change DELETE "enrollment-sets-all/$(encode "$1")"

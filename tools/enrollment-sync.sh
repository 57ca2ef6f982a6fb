#!/usr/bin/env bash
# enrollment-sync.sh ENROLLMENT-ID — tell a device to synchronize now, also if it is in sync.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/enrollment-sync.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
change POST "enrollments/$(encode "$1")/sync"

#!/usr/bin/env bash
# api-status-report-get-last.sh ENROLLMENT-ID — print the newest status report, as the device sent it.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-status-report-get-last.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
get "status-report/$(encode "$1")?index=0"

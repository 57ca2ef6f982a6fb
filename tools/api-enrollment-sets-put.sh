#!/usr/bin/env bash
# api-enrollment-sets-put.sh ENROLLMENT-ID SET — give an enrollment a set.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-enrollment-sets-put.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 2 2 "$@"
change PUT "enrollment-sets/$(encode "$1")?set=$(encode "$2")"

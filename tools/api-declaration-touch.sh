#!/usr/bin/env bash
# api-declaration-touch.sh IDENTIFIER — give a declaration a new ServerToken, so that devices fetch it again.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/api-declaration-touch.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
change POST "declarations/$(encode "$1")/touch"

#!/usr/bin/env bash
# api-declaration-touch.sh IDENTIFIER — give a declaration a new ServerToken, so that devices fetch it again.
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 1 1 "$@"
change POST "declarations/$(encode "$1")/touch"

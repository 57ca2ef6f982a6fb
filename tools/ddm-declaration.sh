#!/usr/bin/env bash
# ddm-declaration.sh ENROLLMENT-ID CLASS/IDENTIFIER — print a declaration that a device would get.
#
# CLASS is activation, asset, configuration or management.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/ddm-declaration.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 2 2 "$@"
if [[ $2 != ?*/?* ]]; then
	say "$2 is not CLASS/IDENTIFIER, such as configuration/com.example.test"
	exit "$misused"
fi
look "$1" "declaration/$(encode "${2%%/*}")/$(encode "${2#*/}")"

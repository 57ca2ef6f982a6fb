#!/usr/bin/env bash
# changes-get.sh [FILTER=VALUE…] — print who changed what, the newest first.
#
# Filters: declaration=IDENTIFIER, set=NAME, enrollment_id=ID, key=NAME, action=ACTION, change_id=ID, since=TIME, until=TIME.
# All pages are fetched, except with limit=N, which prints the newest N at most. With after=PLACE they begin where another
# page ended.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/changes-get.sh
set -euo pipefail
# shellcheck source=tools/client.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/client.sh"

arguments 0 20 "$@"
query='limit=1000'
all=1
for filter in "$@"; do
	case $filter in
	limit=*)
		query=${query/limit=1000/limit=$(encode "${filter#*=}")}
		all=
		;;
	?*=*) query+="&$(encode "${filter%%=*}")=$(encode "${filter#*=}")" ;;
	*)
		say "$filter is not of the form FILTER=VALUE: see --help"
		exit "$misused"
		;;
	esac
done
get_pages changes "$query" "$all"

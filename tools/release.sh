#!/usr/bin/env bash
# release.sh — build the release in bin/release: a zip for each platform, and SHA256SUMS.
#
# The same commit, version and release of Go give the same bytes, wherever they are built. The environment can say
#   VERSION    the version; by default what git says
#   PLATFORMS  which platforms; by default all that are released
#   DIRECTORY  where to put the files
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/release.sh
set -euo pipefail
cd "$(dirname "$0")/.."
tools/require.sh zip

version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo devel)}
platforms=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64}
directory=${DIRECTORY:-bin/release}

# What is for working on Decree itself stays here.
development=" tools/check.sh tools/image.sh tools/release.sh tools/require.sh tools/run.sh "

# Every file gets the time of the commit, and zip writes it in the time zone.
export TZ=UTC
modified=$(git log -1 --format=%cd --date=format-local:%Y%m%d%H%M.%S 2>/dev/null || echo 198001010000.00)
umask 022

mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
rm -f "$directory"/decree-*.zip "$directory/SHA256SUMS"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for platform in $platforms; do
	name=decree-$version-${platform%/*}-${platform#*/}
	files=$work/$name
	mkdir -p "$files/tools"
	CGO_ENABLED=0 GOOS=${platform%/*} GOARCH=${platform#*/} go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$version" -o "$files/decree" ./cmd/decree
	cp LICENSE docs/NOTICE README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md "$files"
	# By name: beside the examples may lie somebody's real secrets.
	find docs -type f \( -name '*.md' -o -name '*.yaml' -o -name '*.service' -o -name '*.example' \
		-o -name grafana.json -o -name Dockerfile -o -name NOTICE \) | while IFS= read -r file; do
		mkdir -p "$files/${file%/*}"
		cp "$file" "$files/$file"
	done
	for script in tools/*.sh tools/*.py; do
		if [ -f "$script" ] && [[ $development != *" $script "* ]]; then
			cp "$script" "$files/tools"
		fi
	done
	chmod -R u=rwX,go=rX "$files"
	find "$files" -exec touch -t "$modified" {} +
	# -X: no owners and no times of access.
	(cd "$work" && find "$name" -type f | LC_ALL=C sort | zip -X -q "$directory/$name.zip" -@)
	echo "$directory/$name.zip"
done

cd "$directory"
if command -v sha256sum >/dev/null; then
	sha256sum decree-*.zip >SHA256SUMS
else
	shasum -a 256 decree-*.zip >SHA256SUMS
fi

#!/usr/bin/env bash
# image.sh [FLAGS…] — build the container image decree:VERSION from a binary that is built here: no image has to be pulled
# for it, and any builder will do. FLAGS go to `docker build`. The environment can say
#   VERSION       the version; by default what git says
#   ENGINE        docker or podman; by default the first that is there
#   CERTIFICATES  file with the certificates of authorities; by default that of this machine
# With ENGINE=none only the files of the image are made, in bin/image or where DIRECTORY says, which must be empty.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # as in: sh tools/image.sh
set -euo pipefail
cd "$(dirname "$0")/.."

version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo devel)}
engine=${ENGINE:-$(command -v docker || command -v podman || echo docker)}
certificates=${CERTIFICATES:-}
for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
	if [ -z "$certificates" ] && [ -f "$file" ]; then
		certificates=$file
	fi
done
if [ -z "$certificates" ]; then
	echo "image.sh: this machine has no certificates of authorities (Debian: apt-get install ca-certificates), or name the" \
		"file in CERTIFICATES" >&2
	exit 1
fi

files=bin/image
if [ "$engine" = none ] && [ -n "${DIRECTORY:-}" ]; then
	files=$DIRECTORY
	# What is in there is not this script's to remove.
	if [ -e "$files" ] && { [ ! -d "$files" ] || [ -n "$(ls -A "$files")" ]; }; then
		echo "image.sh: $files is not an empty directory" >&2
		exit 1
	fi
else
	rm -rf "$files"
fi
umask 022
mkdir -p "$files/data" "$files/etc/ssl/certs" "$files/licenses"
cp docs/deploy/Dockerfile "$files"
cp LICENSE docs/NOTICE "$files/licenses"
cp "$certificates" "$files/etc/ssl/certs/ca-certificates.crt"
CGO_ENABLED=0 GOOS=linux go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" \
	-o "$files/decree" ./cmd/decree
chmod -R u=rwX,go=rX "$files"

# Podman's own format has no health checks.
export BUILDAH_FORMAT=docker
if [ "$engine" != none ]; then
	"$engine" build --tag "decree:$version" "$@" "$files"
fi

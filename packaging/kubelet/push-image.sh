#!/bin/sh
# Makes an image for FreeBSD of a directory and pushes it to a registry without authentication, by the OCI distribution
# specification: one layer, a configuration, a manifest.
#
#   push-image.sh DIRECTORY REGISTRY-URL NAME TAG ENTRYPOINT [ARGUMENT ...]
#
# ARCH   amd64 (the default) or arm64
set -eu

[ $# -ge 5 ] || { sed -n '5p' "$0" >&2; exit 2; }
directory=$1 registry=$2 name=$3 tag=$4
shift 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# FreeBSD has sha256(1), others sha256sum(1).
sum() {
    if command -v sha256sum >/dev/null; then sha256sum "$1" | cut -d ' ' -f 1; else sha256 -q "$1"; fi
}

push_blob() {
    digest=sha256:$(sum "$1")
    upload=$(curl -fsS -X POST -D - -o /dev/null "$registry/v2/$name/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    case $upload in /*) upload=$registry$upload ;; esac
    case $upload in *\?*) upload="$upload&" ;; *) upload="$upload?" ;; esac
    curl -fsS -X PUT -H 'Content-Type: application/octet-stream' --data-binary "@$1" "${upload}digest=$digest" >/dev/null
    echo "$digest"
}

# The words of a command as a list of JSON.
words() {
    separator=
    for word; do
        printf '%s"%s"' "$separator" "$(printf %s "$word" | sed 's/[\\"]/\\&/g')"
        separator=,
    done
}

tar -C "$directory" -cf "$work/layer.tar" .
layer=$(sum "$work/layer.tar")
printf '{"os":"freebsd","architecture":"%s","config":{"Entrypoint":[%s]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "${ARCH:-amd64}" "$(words "$@")" "$layer" >"$work/config.json"
size() { wc -c <"$1" | tr -d ' '; }
cat >"$work/manifest.json" <<MANIFEST
{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
 "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "$(push_blob "$work/config.json")", "size": $(size "$work/config.json")},
 "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "$(push_blob "$work/layer.tar")", "size": $(size "$work/layer.tar")}]}
MANIFEST
curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' --data-binary "@$work/manifest.json" \
    "$registry/v2/$name/manifests/$tag" >/dev/null
echo "$name:$tag"

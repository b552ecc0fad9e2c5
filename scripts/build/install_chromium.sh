#!/usr/bin/env bash
# Debian's Chromium with fonts for the scripts that the tests show, where there is none yet.
set -euo pipefail
for name in chromium chromium-browser google-chrome; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [ "$(id -u)" != 0 ]; then
  echo "No Chromium on PATH, and only root installs it: apt-get install --no-install-recommends chromium fonts-noto-core fonts-noto-cjk" >&2
  exit 1
fi
apt-get update --quiet
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends chromium fonts-noto-core fonts-noto-cjk

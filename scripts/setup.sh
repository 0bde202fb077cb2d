#!/usr/bin/env bash
# Builds .venv from requirements.lock. Usage: scripts/setup.sh [python]   (default: the first python3 of 3.11 to 3.13 on PATH)
# uv obeys pip's find-links when they are handed over, so a machine that keeps a CPU wheel of torch uses it, and a machine
# that does not takes the index's build (CUDA on Linux).
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE # without byte code every process parses torch and transformers anew (+2.5 s each)

supported='import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] < (3, 14))'
python=${1:-}
if [ -z "$python" ]; then
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c "$supported" 2>/dev/null; then python=$candidate; break; fi
  done
fi
if [ -z "$python" ] || ! "$python" -c "$supported"; then
  echo "setup: no Python 3.11, 3.12 or 3.13 found (tried: ${python:-python3, python3.13, python3.12, python3.11}). Install one, or: make setup PYTHON=/path/to/python3.11" >&2
  exit 1
fi

# Make goes by dates, which a checkout changes; an environment in use is not rebuilt for that.
stamp=$("$python" -c 'import hashlib; print(hashlib.sha256(open("requirements.lock", "rb").read()).hexdigest())')
if [ $# -eq 0 ] && [ "$(cat .venv/.ready 2>/dev/null)" = "$stamp" ]; then
  echo "$stamp" > .venv/.ready
  exit 0
fi

echo "setup: building .venv with $("$python" --version) from requirements.lock (about a minute, once)"
rm -rf .venv
"$python" -m venv .venv
.venv/bin/python -m pip install -qq --disable-pip-version-check uv # -qq: a machine may list folders that pip warns of
if [ -z "${UV_FIND_LINKS:-}" ]; then
  find_links=${PIP_FIND_LINKS:-$(.venv/bin/python -m pip config get global.find-links 2>/dev/null || true)}
  if [ -n "$find_links" ]; then export UV_FIND_LINKS=$find_links; fi
fi
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet -r requirements.lock
VIRTUAL_ENV=$PWD/.venv .venv/bin/uv pip install --quiet --no-deps --editable .
# Python reads .pth files in the locale's encoding, so that an absolute path outside ASCII stops it under LC_ALL=C.
for file in .venv/lib/python3.*/site-packages/_editable_impl_symlora.pth; do echo ../../../.. > "$file"; done
echo "$stamp" > .venv/.ready

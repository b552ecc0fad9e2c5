#!/usr/bin/env bash
# Install the hosted trainer's SDK and TuFT, the Tinker-compatible server that tests/hosted_server.py runs on a CPU.
#
#   scripts/build/install_tuft.sh [PYTHON]        default: .venv/bin/python, which must already hold this project
#
# TuFT's own requirements (vLLM, Ray, an older torch and PEFT) can never be resolved beside TRL 1.16, so it is installed
# without them; the constraints keep everything else, torch above all, at the versions that are there.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
held=$(mktemp)
trap 'rm -f "$held"' EXIT
"$python" -m pip list --format=freeze --exclude-editable > "$held"
"$python" -m pip install --quiet --constraint "$held" \
  'tinker>=0.38,<0.39' 'fastapi>=0.136,<0.166' 'uvicorn>=0.54' 'omegaconf>=2.3' 'psutil>=7' 'nvidia-ml-py>=13' \
  'opentelemetry-api>=1.45,<2' 'opentelemetry-sdk>=1.45,<2' 'opentelemetry-exporter-otlp>=1.45,<2' \
  'opentelemetry-instrumentation-fastapi>=0.66b2' 'opentelemetry-instrumentation-logging>=0.66b2'
"$python" -m pip install --quiet --no-deps 'tuft==0.2.2'
"$python" -c 'import tinker, tuft; print("tinker", tinker.__version__, "and TuFT are installed")'

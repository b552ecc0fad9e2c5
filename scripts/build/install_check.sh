#!/bin/sh
# The wheel as users install it: by uvx and by pipx, and its command without torch on the Pythons named: [PYTHON …]
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HF_HUB_OFFLINE=1
python3 -m venv "$work/tools"
"$work/tools/bin/python" -m pip install --quiet build uv pipx
"$work/tools/bin/python" -m build --wheel --outdir "$work/dist" . > "$work/build.log" || { cat "$work/build.log"; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
for python in "$@"; do
    "$python" -m venv "$work/$python"
    # what the command line needs, without torch and the libraries that need it
    "$work/$python/bin/python" -m pip install --quiet --no-deps "$wheel"
    "$work/$python/bin/python" -m pip install --quiet typer rich pydantic ruamel.yaml numpy scipy rapidfuzz regex ftfy \
        filelock fsspec pyarrow huggingface_hub jinja2 jsonschema urllib3 packaging psutil
    "$work/$python/bin/adapters" --help > /dev/null
    "$work/$python/bin/adapters" data synthesize funding -n 20 -o "$work/$python.jsonl"
    "$work/$python/bin/adapters" rewards list > /dev/null
    echo "$("$python" --version): the command works"
done
(cd "$work" && "$work/tools/bin/uvx" --from "$wheel" adapters rewards list > /dev/null && echo "uvx: the command works")
PIPX_HOME=$work/pipx PIPX_BIN_DIR=$work/bin "$work/tools/bin/pipx" install --quiet "$wheel"
(cd "$work" && "$work/bin/adapters" rewards list > /dev/null && echo "pipx: the command works")

#!/bin/sh
# llama.cpp: its converters, and its server compiled for this CPU (15 minutes on two cores). install_llama.sh FOLDER [PYTHON]
# The source is that of the package llama-cpp-python, which package indexes have; FOLDER becomes a checkout of llama.cpp.
set -e
folder=$1
package=llama-cpp-python==0.3.36
"${2:-python3}" -m venv "$folder/venv"
pip="$folder/venv/bin/python -m pip --quiet"
$pip install cmake==4.4.5 ninja==1.13.2
$pip download --no-deps --no-binary llama-cpp-python --dest "$folder/sdist" "$package"
# What the converters import beside torch and transformers; they find it there with any interpreter
$pip install --no-deps --target "$folder/packages" sentencepiece==0.2.3
tar xzf "$folder"/sdist/*.tar.gz -C "$folder" --strip-components 3 --wildcards '*/vendor/llama.cpp'
rm -r "$folder/sdist"
PATH=$folder/venv/bin:$PATH
# No web page (it would be fetched), no TLS, nothing but the server; and not the commit of the checkout around it
export GIT_DIR=/dev/null
cmake -S "$folder" -B "$folder/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_USE_PREBUILT_UI=OFF \
  -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF > "$folder/build.log"
nice cmake --build "$folder/build" --parallel 2 --target llama-server >> "$folder/build.log"
touch "$folder/.installed"

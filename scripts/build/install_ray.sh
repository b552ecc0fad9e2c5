#!/bin/sh
# This project with Ray, s3fs, and a test server for S3, in an environment of its own: install_ray.sh FOLDER [PYTHON]
set -e
venv=$1
"${2:-python3}" -m venv "$venv"
pip="$venv/bin/python -m pip install --quiet --constraint constraints.txt"
$pip torch
$pip --editable '.[dev,ray]' s3fs 'moto[server]'
touch "$venv/.installed"

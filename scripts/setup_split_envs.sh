#!/usr/bin/env bash
# Two environments: .venv (requirements.txt, transformers 4, unbabel-comet) and .venv-t5 (requirements-transformers5.txt,
# transformers 5). Either runs everything; to run a scorer in the other one, set python_executable in a recipe's YAML to
# its Python.
#
#   scripts/setup_split_envs.sh [FOLDER]     put both environments there instead of the repository
#   PYTHON=/path/to/python3.11               the Python to create them with
#   ONLY=.venv-t5                            create only this one
#   ONLY=.venv-vllm                          a third, created only by this: .venv-t5 with vLLM (needs CUDA GPUs)
#
# An environment that is complete and not older than its requirements is not changed.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$repository}

find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: Python 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11" >&2
    exit 2
}

case ${ONLY:-} in
    "" | .venv | .venv-t5 | .venv-vllm) ;;
    *)
        echo "error: ONLY=$ONLY is unknown; use .venv, .venv-t5 or .venv-vllm" >&2
        exit 2
        ;;
esac

# make_environment NAME REQUIREMENTS IMPORTS: install, then check the imports
make_environment() {
    local target=$folder/$1 requirements=$repository/$2 imports=$3
    [[ -n ${ONLY:-} && $ONLY != "$1" ]] && return
    if [[ -e $target/installed && ! $requirements -nt $target/installed ]]; then
        echo "$1: up to date"
        return
    fi
    echo "$1: installing $2"
    "$python" -m venv "$target"
    "$target/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    "$target/bin/python" -c "$imports"
    touch "$target/installed"
    echo "$1: ready, $("$target/bin/python" -c 'import torch, transformers as t; print("transformers", t.__version__, "torch", torch.__version__)')"
}

python=$(find_python)
mkdir -p "$folder"
make_environment .venv requirements.txt 'import comet, trl, datasets'
make_environment .venv-t5 requirements-transformers5.txt 'import trl, datasets, peft, httpx'
if [[ ${ONLY:-} == .venv-vllm ]]; then
    make_environment .venv-vllm requirements-vllm.txt 'import vllm, trl, datasets, peft, httpx'
fi

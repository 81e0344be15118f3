#!/usr/bin/env bash
# Install locks/cpu.txt into an environment: locks/install.sh PYTHON. `make setup` calls it.
#
# torch comes first, as its CPU build: without it pip would take the CUDA build and gigabytes of libraries. Where it
# comes from: TORCH_INDEX if set; otherwise the indexes that pip is configured with, and PyTorch's own for CPUs if they
# have none.
set -euo pipefail

python=$1
lock=$(dirname "$0")/cpu.txt
pytorch_cpu=https://download.pytorch.org/whl/cpu
version=$(sed -n 's/^torch==\([0-9.]*\).*/\1/p' "$lock")
total=$(grep -c '^[A-Za-z0-9]' "$lock")

pip_install() {
    "$python" -m pip install --disable-pip-version-check --no-input --no-deps "$@"
}

torch_from() {
    echo "torch $version (CPU build) from $1"
    pip_install --quiet --index-url "$1" "torch==$version" || {
        echo "torch $version could not be installed from $1. Set another index: make setup TORCH_INDEX=URL" >&2
        return 1
    }
}

install_torch() {
    if [ -n "${TORCH_INDEX:-}" ]; then
        torch_from "$TORCH_INDEX"
    elif [ "$(uname -s)" = Darwin ]; then
        pip_install --quiet "torch==$version" # on macOS every build is a CPU build
    else
        local said
        said=$(pip_install --quiet "torch==$version+cpu" 2>&1) && return
        if ! grep -q 'No matching distribution' <<<"$said"; then
            echo "$said" >&2
            return 1
        fi
        torch_from "$pytorch_cpu"
    fi
}

# One line per 25 packages instead of pip's three per package; what pip writes to stderr is shown as it is.
progress() {
    awk -v total="$total" '
        /^(Collecting|Processing|Ignoring|Requirement already satisfied)/ { if (++n % 25 == 0) { print "  fetched " n " of " total; fflush() } }
        /^Installing collected packages/ { print "  fetched all, installing (a minute or two)"; fflush() }'
}

echo "Installing $total pinned packages (first time only; 2 to 5 minutes)"
install_torch
pip_install --progress-bar off -r "$lock" | progress

#!/bin/sh
# Everything that needs a GPU, in under ten minutes; see benchmarks/gpu/drive.py.
exec "${PYTHON:-python}" "$(dirname "$0")/gpu/drive.py" "$@"

"""``python -m lens_bench.cli``."""

from __future__ import annotations

from lens_bench.cli import main

main()

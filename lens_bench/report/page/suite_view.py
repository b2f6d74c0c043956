"""What a page knows of a suite beyond the run directory: expressions, annotations, pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lens_bench.data.split import known_root, open_split
from lens_bench.errors import DataError, UsageError
from lens_bench.records import ImageSource, Sample
from lens_bench.registry import find_suite
from lens_bench.report.runset import ScoredRun


@dataclass(frozen=True, slots=True)
class SuiteView:
    """The samples of a split by id; empty where its data is not at hand, and then ``missing`` says why."""

    samples: Mapping[str, Sample]
    data_root: Path
    missing: str = ""

    def image_name(self, image: ImageSource) -> str:
        """What to call a picture on a page: its path below the data root, which says nothing of this machine."""
        path = Path(image.name)
        return str(path.relative_to(self.data_root)) if path.is_relative_to(self.data_root) else path.name


def open_suite(run: ScoredRun, data_root: Path | None, suite: str | None = None) -> SuiteView:
    """Open the split that a run was made on. A page can be made without, so absence is a value and no error.

    Args:
        run: Whose suite, split and content hash are looked for.
        data_root: Folder with the data; by default the one that the run used, see ``known_root``.
        suite: Name or path of the suite card, where the one of the manifest's name is not it.
    """
    manifest = run.manifest
    root = known_root(data_root, manifest.data_root)
    try:
        split = open_split(find_suite(suite or manifest.suite), manifest.split, root, allow_partial=True)
    except (DataError, UsageError) as error:
        return SuiteView({}, root, error.message)
    if split.content_hash != manifest.suite_hash:
        found = f"{manifest.suite} {manifest.split} as found here is not what the run was made on"
        return SuiteView({}, root, f"{found}: content hash {split.content_hash[:12]}")
    return SuiteView({s.id: s for s in split.samples}, root)

"""Scoring beside the model: a thread that rasterises ground truth and compares while the model works."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from lens_bench.records import Prediction, Sample, Score
from lens_bench.run.truth_store import TruthStore, cache_folder
from lens_bench.scoring.counts import Scorer
from lens_bench.scoring.protocols import Protocol

_WAITING = 1024  # predictions held in memory while the model is faster than the scoring


class BackgroundScorer:
    """Scores predictions as they come, in any order; ``finish`` gives the scores in the order of the samples.

    One thread, because annotations are cached between the expressions of a referent.

    Args:
        protocol: The rules.
        samples: Of this run.
        seed: Of the protocol's selection.
        suite_hash: Content hash of the split, under which rasterised annotations are kept for the next run.
    """

    def __init__(self, protocol: Protocol, samples: Sequence[Sample], seed: int, suite_hash: str) -> None:
        self._samples = {s.id: s for s in samples}
        self._truths = ExitStack()
        truths = self._truths.enter_context(TruthStore(suite_hash, protocol, cache_folder()))
        self._scorer = Scorer(protocol, samples, seed, truths.prepare)
        self._scores: dict[str, Score] = {}
        self._handed: set[str] = set()
        self._waiting: deque[Future[Score]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self.errors = 0

    def put(self, prediction: Prediction) -> None:
        """Hand over a prediction; one of a sample already handed over is passed by.

        Raises:
            DataError: Scoring an earlier one failed.
        """
        if prediction.sample_id in self._handed:
            return
        sample = self._samples[prediction.sample_id]
        self._waiting.append(self._thread.submit(self._scorer.score, sample, prediction))
        self._handed.add(prediction.sample_id)  # last: an interruption before this line costs nothing but scoring twice
        self.errors += prediction.status == "error"
        while self._waiting and (len(self._waiting) > _WAITING or self._waiting[0].done()):
            self._keep(self._waiting.popleft().result())

    @property
    def handed(self) -> int:
        """How many samples were handed over."""
        return len(self._handed)

    def finish(self) -> list[Score]:
        """Wait for everything handed over; the scores in the order of the samples, unanswered ones left out.

        Raises:
            DataError: An annotation, or a mask of an earlier session, cannot be used.
        """
        try:
            while self._waiting:
                self._keep(self._waiting.popleft().result())
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._truths.close()
        return [self._scores[sample_id] for sample_id in self._samples if sample_id in self._scores]

    def _keep(self, score: Score) -> None:
        self._scores[score.sample_id] = score

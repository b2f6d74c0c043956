"""Scoring beside the model: a thread that rasterises ground truth and compares while the model works."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

from lens_bench.records import Prediction, Sample, Score
from lens_bench.run.truth_store import TruthStore, cache_folder, truth_rules
from lens_bench.scoring.counts import Answer, Scorer, answer_rules, read_answers
from lens_bench.scoring.protocols import Protocol

_WAITING = 1024  # predictions held in memory while the model is faster than the scoring


class BackgroundScorer:
    """Scores predictions as they come, in any order; ``finish`` gives the scores in the order of the samples.

    One thread, because annotations are cached between the expressions of a referent. Protocols that read annotations
    or answers alike share them.

    Args:
        protocols: The rules, each with a name of its own.
        samples: Of this run.
        seed: Of the protocol's selection.
        suite_hash: Content hash of the split, under which rasterised annotations are kept for the next run.
    """

    def __init__(self, protocols: Sequence[Protocol], samples: Sequence[Sample], seed: int, suite_hash: str) -> None:
        self._samples = {s.id: s for s in samples}
        self._truths = ExitStack()
        self._scorers: dict[str, Scorer] = {}
        alike: dict[str, Scorer] = {}
        for protocol in protocols:
            rules = truth_rules(protocol)
            if rules in alike:
                prepare = alike[rules].prepare
            else:
                prepare = self._truths.enter_context(TruthStore(suite_hash, protocol, cache_folder())).prepare
            scorer = Scorer(protocol, samples, seed, prepare)
            alike.setdefault(rules, scorer)
            self._scorers[protocol.name] = scorer
        self._scores: dict[str, dict[str, Score]] = {name: {} for name in self._scorers}
        self._handed: set[str] = set()
        self._waiting: deque[tuple[int, Future[dict[str, list[Score]]]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self.errors = 0

    def put(self, *predictions: Prediction) -> None:
        """Hand over predictions; those of samples already handed over are passed by.

        Raises:
            DataError: Scoring earlier ones failed.
        """
        new = [p for p in predictions if p.sample_id not in self._handed]
        if not new:
            return
        self._waiting.append((len(new), self._thread.submit(self._score, new)))
        # Last: an interruption before this line costs nothing but scoring twice.
        self._handed.update(p.sample_id for p in new)
        self.errors += sum(p.status == "error" for p in new)
        while self._waiting and (sum(n for n, _ in self._waiting) > _WAITING or self._waiting[0][1].done()):
            self._keep(self._waiting.popleft()[1].result())

    @property
    def handed(self) -> int:
        """How many samples were handed over."""
        return len(self._handed)

    def finish(self) -> dict[str, list[Score]]:
        """Wait for everything handed over; the scores by protocol, in the order of the samples.

        Samples that were not answered are left out.

        Raises:
            DataError: An annotation, or a mask of an earlier session, cannot be used.
        """
        try:
            while self._waiting:
                self._keep(self._waiting.popleft()[1].result())
        finally:
            self._thread.shutdown(cancel_futures=True)
            self._truths.close()
        return {
            name: [scores[sample_id] for sample_id in self._samples if sample_id in scores]
            for name, scores in self._scores.items()
        }

    def _score(self, predictions: Sequence[Prediction]) -> dict[str, list[Score]]:
        pairs = [(self._samples[p.sample_id], p) for p in predictions]
        read: dict[object, list[Answer]] = {}
        found = {}
        for name, scorer in self._scorers.items():
            rules = answer_rules(scorer.protocol)
            if rules not in read:
                read[rules] = read_answers(pairs, scorer.protocol)
            found[name] = scorer.score_all(pairs, read[rules])
        return found

    def _keep(self, found: Mapping[str, Sequence[Score]]) -> None:
        for name, scores in found.items():
            self._scores[name].update((score.sample_id, score) for score in scores)

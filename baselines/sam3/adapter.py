"""SAM 3 with the expression as its phrase, and SAM 3 as a tool of a language model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from lens_bench import masks
from lens_bench.checkpoint_files import digest
from lens_bench.errors import CheckpointError, UsageError
from lens_bench.finite import MASK_SCORES
from lens_bench.hub_cache import cached_folder
from lens_bench.perf.clock import StageClock
from lens_bench.records import ImageTask, LoadReport, ModelOptions, Prediction, Query
from lens_bench.vlm.adapter import Arguments, LoadedTalker, dtype_of, load_talker, sizing_of, talker_identity

from . import wording
from .agent import Agent, Outcome, Rules
from .drive import drive
from .show import Show

if TYPE_CHECKING:
    from .concepts import Found, Instance, Sam3, Seen


class _Sam3Adapter:
    """SAM 3's weights, and the clock."""

    def __init__(self, options: ModelOptions) -> None:
        self.options = options
        self.args = Arguments(options)
        self._sam: Sam3 | None = None
        self._clock = StageClock(options.device)

    @property
    def sam(self) -> Sam3:
        """SAM 3, loaded."""
        if self._sam is None:
            raise CheckpointError("segment was called before load")
        return self._sam

    def weight_digest(self) -> str:
        """SHA-256 of everything in SAM 3's folder that can change an answer."""
        return digest(self.folder())

    def load(self) -> LoadReport:
        """Read SAM 3.

        Raises:
            CheckpointError: A file or tensor is missing, broken or does not fit.
        """
        from .concepts import PHRASE_TOKENS, Sam3

        dtype = dtype_of(self.options, self.args.text("sam_dtype"))
        self._sam = Sam3.load(self.folder(), self.options.device, dtype, self.args.real("threshold"))
        return LoadReport(self._sam.parameters, notes=(f"a phrase is read up to {PHRASE_TOKENS} tokens",))

    def close(self) -> None:
        """Free SAM 3."""
        self._sam = None

    def folder(self) -> Path:
        """SAM 3's folder: argument ``sam``, else the repository ``sam_hub`` in the local cache.

        Raises:
            CheckpointError: There is none. Nothing is downloaded.
        """
        if given := self.args.text("sam"):
            return Path(given).expanduser()
        return cached_folder(self.args.text("sam_hub"), f"SAM 3 of {self.options.name}", "sam")

    def encode(self, tasks: Sequence[ImageTask]) -> list[Seen]:
        """Features of every task's image."""
        with self.stage("SAM 3 features"):
            return self.sam.encode([task.rgb for task in tasks])

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Add the time of a block to a stage, by the device's clock."""
        return self._clock.stage(name)

    def shares(self, count: int) -> dict[str, float]:
        """Milliseconds per stage and query of ``count`` queries, and start anew. Phrases are found during turns."""
        seconds, self._clock = self._clock.seconds(), StageClock(self.options.device)
        if "turns" in seconds:
            seconds["turns"] -= seconds.get("phrases", 0.0)
        return {stage: 1000 * spent / max(1, count) for stage, spent in seconds.items()}


class Sam3Text(_Sam3Adapter):
    """The expression is the phrase. See ``model.yaml`` for the arguments."""

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """One prediction per query, tasks and queries in order."""
        seen = self.encode(tasks)
        asked = [(number, query) for number, task in enumerate(tasks) for query in task.queries]
        fine = [(seen[number], self.phrase(query)) for number, query in asked if not self._refusal(query)]
        with self.stage("phrases"):
            found = iter(self.sam.find(fine))
        share = self.shares(len(asked))
        return [
            Prediction(query.sample_id, "error", error=why, stages_ms=share)
            if (why := self._refusal(query))
            else self._prediction(query, next(found), share)
            for _, query in asked
        ]

    def _refusal(self, query: Query) -> str:
        return self.sam.refusal(self.phrase(query))

    def phrase(self, query: Query) -> str:
        """The expression as SAM 3 is asked for it."""
        return query.expression.strip().rstrip(".") or query.expression

    def _prediction(self, query: Query, found: Found, share: dict[str, float]) -> Prediction:
        """Of what SAM 3 finds: everything joined, the most probable thing, or its semantic mask."""
        if not found.finite:
            return Prediction(query.sample_id, "error", error=MASK_SCORES, stages_ms=share)
        take = self.args.text("take")
        text = f"{len(found.instances)} things"
        if take == "semantic":
            if not masks.area(found.semantic):
                return Prediction(query.sample_id, "no_mask", text=text, stages_ms=share)
            return Prediction(query.sample_id, "ok", mask=found.semantic, text=text, stages_ms=share)
        taken = found.instances[:1] if take == "best" else found.instances
        return joined(query.sample_id, taken, text, share)


class Sam3Agent(_Sam3Adapter):
    """A language model uses SAM 3 as a tool. See ``model.yaml`` for the arguments."""

    def __init__(self, options: ModelOptions) -> None:
        super().__init__(options)
        self._language: LoadedTalker | None = None

    def weight_digest(self) -> str:
        """SHA-256 over SAM 3, the language model (its name, behind an endpoint) and what the agent is told."""
        rules = self.rules()
        parts = (super().weight_digest(), talker_identity(self.options), rules.system, rules.examiner)
        return hashlib.sha256("\n\0".join(parts).encode()).hexdigest()

    def load(self) -> LoadReport:
        """Look for the language model, read SAM 3."""
        self.rules()
        sizing_of(self.args)
        language = load_talker(self.options)
        report = super().load()
        self._language = language
        return LoadReport(report.parameters + language.parameters, notes=(*report.notes, *language.notes))

    def close(self) -> None:
        """Free both models."""
        super().close()
        if self._language is not None:
            self._language.talker.close()
        self._language = None

    def rules(self) -> Rules:
        """From the arguments ``system_prompt``, ``examiner_prompt`` and ``max_turns``.

        Raises:
            UsageError: A file cannot be read, or the limit is below 1.
        """
        turns = self.args.whole("max_turns")
        if turns < 1:
            raise UsageError(f"--model-arg max_turns={turns}: an agent needs a turn")
        return Rules(
            self._text_file("system_prompt", wording.SYSTEM),
            self._text_file("examiner_prompt", wording.EXAMINER),
            turns,
        )

    def segment(self, tasks: Sequence[ImageTask]) -> list[Prediction]:
        """One prediction per query, tasks and queries in order; all agents of the call work side by side."""
        language, seen, rules = self._language, self.encode(tasks), self.rules()
        if language is None:
            raise CheckpointError("segment was called before load")
        asked = [(number, query) for number, task in enumerate(tasks) for query in task.queries]
        show = Show(sizing_of(self.args))
        agents = [Agent(query.expression, tasks[number].rgb, show, rules).run() for number, query in asked]

        def find(phrases: Sequence[tuple[int, str]]) -> list[Found]:
            with self.stage("phrases"):
                return self.sam.find([(seen[asked[agent][0]], phrase) for agent, phrase in phrases])

        with self.stage("turns"):
            outcomes = drive(agents, language.talker.ask, find)
        share = self.shares(len(asked))
        return [self._prediction(query, o, share) for (_, query), o in zip(asked, outcomes, strict=True)]

    def _prediction(self, query: Query, outcome: Outcome, share: dict[str, float]) -> Prediction:
        """Turns that cannot be followed give no mask and say why; a model that cannot be asked is an error."""
        if outcome.error is not None:
            return Prediction(query.sample_id, "error", text=outcome.log, error=outcome.error, stages_ms=share)
        if outcome.failure is not None:
            return Prediction(
                query.sample_id,
                "no_mask",
                text=outcome.log,
                tokens=outcome.tokens,
                stages_ms=share,
                error=outcome.failure,
            )
        found = joined(query.sample_id, outcome.masks, outcome.log, share)
        return Prediction(
            found.sample_id, found.status, found.mask, found.box, found.score, found.text, outcome.tokens, share
        )

    def _text_file(self, argument: str, default: str) -> str:
        path = self.args.text(argument)
        if not path:
            return default
        try:
            return Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"--model-arg {argument}={path} cannot be read as text") from None


def joined(sample_id: str, things: Sequence[Instance], text: str, stages_ms: dict[str, float]) -> Prediction:
    """The union of the things; a box where there is one thing alone."""
    if not things:
        return Prediction(sample_id, "no_mask", text=text, stages_ms=stages_ms)
    return Prediction(
        sample_id,
        "ok",
        mask=masks.union([thing.mask for thing in things], things[0].mask.size),
        box=things[0].box if len(things) == 1 else None,
        score=max(thing.score for thing in things),
        text=text,
        stages_ms=stages_ms,
    )

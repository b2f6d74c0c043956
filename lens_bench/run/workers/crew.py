"""A run's session over several workers: images out, predictions in, and what is to be said about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from lens_bench.errors import DataError, LensBenchError, RunError, UsageError
from lens_bench.perf.crew import WorkerMemory
from lens_bench.perf.speed import Call, Speed
from lens_bench.records import LoadReport, Prediction
from lens_bench.run.answer import failed
from lens_bench.run.decode import Work, decode
from lens_bench.run.manifest import Manifest, arithmetic
from lens_bench.run.plan import Plan
from lens_bench.run.session import See
from lens_bench.run.watch import Progress, Quiet
from lens_bench.run.workers.dispatch import Dispatcher
from lens_bench.run.workers.foreman import Done, Foreman
from lens_bench.run.workers.pool import Identity, Pool
from lens_bench.run.workers.worker import ImageAnswer, ImageParcel


class Crew:
    """Workers as a ``run.session.Session``. Only the driving process writes, so a lost worker loses no answer.

    Args:
        pool: Where workers come from.
        plans: One for each split; all of the same model.
        wanted: How many workers; None for as many as there is room for, now and later.
    """

    def __init__(self, pool: Pool[ImageParcel, ImageAnswer], plans: Sequence[Plan], wanted: int | None) -> None:
        self._pool = pool
        self._progress: Progress = Quiet()
        self._foreman = Foreman(pool, wanted, lambda identity: unfit(identity, plans[0].manifest), self)
        self.load_s = 0.0

    def count(self, ready: int, wanted: int) -> None:
        """Tell who watches."""
        self._progress.workers(ready, wanted)

    def note(self, message: str) -> None:
        """Tell who watches."""
        self._progress.note(message)

    def load(self, plan: Plan, images: int, progress: Progress) -> LoadReport:
        """Wait for the workers to load the model.

        Raises:
            LensBenchError: What the first worker raised, where none can load it.
        """
        self._progress = progress
        report = self._foreman.gather(-(-images // plan.batch_size))
        self.load_s = max(m.load_s for m in self._foreman.members.values())
        return report

    def answers(
        self, plan: Plan, work: Sequence[Work], speed: Speed, progress: Progress, see: See
    ) -> Iterator[list[Prediction]]:
        """Predictions in the order in which workers answer."""
        self._progress = progress
        foreman, reads = self._foreman, plan.card.reads_images
        parcels = [ImageParcel(task, samples[0].image if reads else None) for task, samples in work]
        dispatcher = Dispatcher(len(parcels), min(plan.batch_size, len(parcels)))
        lost, late = foreman.lost, foreman.late
        reasons: dict[int, tuple[str, ...]] = {}
        for come in foreman.run(dispatcher, parcels):
            if isinstance(come, Done):
                if said := [r for r in come.answer.reasons if r not in reasons.get(come.worker, ())]:
                    progress.note(f"worker {come.worker}: {said[-1]}")
                reasons[come.worker] = come.answer.reasons
                speed.halvings += come.answer.halvings
                self._measure(come, parcels, speed)
                for image, mark in zip(come.chunk, come.answer.fingerprints, strict=True):
                    task, samples = work[image]
                    see(task.image_id, samples[0].image.name, mark)
                yield self._predictions(come, parcels, dispatcher)
            else:
                error = RunError(f"every worker that was asked about this image died: {come.reason}")
                yield [p for image in come.images for p in failed(parcels[image].task, error)]
        speed.reasons += dict.fromkeys(reason for said in reasons.values() for reason in said)
        for number, what in (
            (foreman.lost - lost, "workers lost"),
            (foreman.late - late, "workers joined while the clock ran"),
            (dispatcher.repeated, "calls repeated by another worker"),
        ):
            speed.reasons += [f"{what}: {number}"] if number else []

    def close(self, progress: Progress) -> None:
        """End the workers."""
        self._pool.close()

    def _measure(self, done: Done[ImageAnswer], parcels: Sequence[ImageParcel], speed: Speed) -> None:
        speed.calls += _counted(done, parcels)
        member = self._foreman.members.get(done.worker)
        if member is None or member.identity is None:
            return
        memory = done.answer.peak_rss_mb, done.answer.peak_device_mb
        speed.workers[done.worker] = WorkerMemory(
            member.identity.node, member.identity.hardware, member.load_s, *memory
        )

    def _predictions(
        self, done: Done[ImageAnswer], parcels: Sequence[ImageParcel], dispatcher: Dispatcher
    ) -> list[Prediction]:
        """The answers that nobody gave before, in the order of one process: images that cannot be read come first."""
        fresh = set(done.fresh)
        broken: list[Prediction] = []
        blind: list[int] = []
        for place in done.answer.unread:
            image = done.chunk[place]
            if image not in fresh:
                continue
            parcel = parcels[image]
            here = decode(parcel.task, parcel.source) if parcel.source else None
            if here and here.error:
                broken += failed(parcel.task, here.error)
            else:
                blind.append(place)
        if blind:
            dispatcher.reopen(done.chunk[place] for place in blind)
            dispatcher.leave(done.worker, died=False)
            self._foreman.dismiss(done.worker, _blind(done, blind[0]))
        answered = zip(done.chunk, done.answer.predictions, strict=True)
        return broken + [p for image, predictions in answered if image in fresh for p in predictions]


def unfit(identity: Identity, manifest: Manifest) -> LensBenchError | None:
    """Why a worker would not give the answers of the run: it has other weights, or libraries that compute otherwise."""
    if identity.weight_digest != manifest.weight_digest:
        return UsageError(
            f"model {manifest.model} is another one on {identity.node}: its digest is {identity.weight_digest[:12]}, "
            f"here {manifest.weight_digest[:12]}",
            "every node needs the same weights and the same version of lens-bench",
        )
    here, there = arithmetic(manifest.environment), arithmetic(identity.environment)
    for name, value in here.items():
        if there[name] != value:
            return UsageError(
                f"{name} is {there[name]} on {identity.node}, here it is {value}", "every node needs the same versions"
            )
    return None


def _counted(done: Done[ImageAnswer], parcels: Sequence[ImageParcel]) -> Iterator[Call]:
    """The calls behind an answer. What somebody else had answered before was time of the model and no throughput."""
    fresh = set(done.fresh)
    asked = (image for place, image in enumerate(done.chunk) if place not in done.answer.unread)
    for call in done.answer.calls:
        new = [image for image in islice(asked, call.images) if image in fresh]
        yield replace(call, images=len(new), expressions=sum(len(parcels[image].task.queries) for image in new))


def _blind(done: Done[ImageAnswer], place: int) -> DataError:
    error = done.answer.unread[place]
    return DataError(
        f"a worker cannot read what can be read here: {error.message}", "the data root must be on every node"
    )

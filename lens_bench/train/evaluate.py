"""Periodic evaluation while training: the inference engine on the first samples of a split, with overlays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lens_bench import masks
from lens_bench.lens.engine import Answer, Engine
from lens_bench.picture import overlay, write_picture
from lens_bench.records import Pixels, Prediction
from lens_bench.train.config import Evaluation
from lens_bench.train.data import Draw, Item, TrainingData
from lens_bench.train.meter import Meter
from lens_bench.train.workshop import Objective, Workshop


def evaluate(shop: Workshop, items: Sequence[Item], config: Evaluation, step: int, out: Path) -> dict[str, float]:
    """Ask the model about samples as ``lens-bench run`` does; fractions by name, over all ranks.

    ``eval/ciou`` is a ratio of sums over pixels. ``eval/failed`` is the share of expressions without an answer (above
    all those whose prompt leaves no room for one), which count as empty masks. ``eval/named`` is the share of right
    masks (IoU > 0.5) whose text names the thing that is meant, where the data says what it is called; it is left out
    where no mask is right.
    """
    lens, accelerator = shop.lens, shop.accelerator
    mine = list(items[: config.samples])[accelerator.process_index :: accelerator.num_processes]
    images: dict[str, int] = {}
    for item in mine:
        images.setdefault(item.image, len(images))
    sources = {item.image: item.sample.image for item in mine}
    pixels = [sources[name].read() for name in images]
    was_training = lens.training
    with shop.whole(), shop.autocast():
        engine = Engine(lens.eval(), shop.prompter)
        answers = engine.answer(pixels, [(images[item.image], item.sample.expression) for item in mine])
    lens.train(was_training)
    meter = Meter()
    for name in ("ciou", "giou", "box_right", "box_iou", "named", "answered", "failed"):
        meter.add(f"eval/{name}", 0.0, 0.0)
    for item, answer in zip(mine, answers, strict=True):
        _count(meter, item, answer)
    if accelerator.is_main_process:
        for number, (item, answer) in enumerate(zip(mine[: config.overlays], answers, strict=False)):
            _draw(out, step, number, item, answer, pixels[images[item.image]])
    return dict(meter.means(accelerator))


def _count(meter: Meter, item: Item, answer: Answer) -> None:
    union, _, ignore = masks.merge_truth(item.sample.truth)
    wanted, valid = masks.decode(union), ~masks.decode(ignore)
    found = masks.decode(answer.mask) if answer.mask is not None else wanted & False
    both, either = int((found & wanted & valid).sum()), int(((found | wanted) & valid).sum())
    iou = both / either if either else 1.0
    meter.add("eval/ciou", both, either)
    meter.add("eval/giou", iou)
    truth = masks.truth_box(item.sample.truth, union)
    box = masks.box_iou(answer.box, truth) if answer.box is not None and truth is not None else 0.0
    meter.add("eval/box_iou", box)
    meter.add("eval/box_right", float(box > 0.5))
    meter.add("eval/answered", float(answer.box is not None))
    meter.add("eval/failed", float(answer.mask is None))
    if iou > 0.5 and item.referent:
        meter.add("eval/named", float(item.referent in answer.text))


def _draw(out: Path, step: int, number: int, item: Item, answer: Answer, pixels: Pixels) -> None:
    folder = out / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    prediction = Prediction(item.sample.id, "ok", mask=answer.mask, box=answer.box, text=answer.text)
    stem = folder / f"step-{step:08d}-{number}"
    write_picture(stem.with_suffix(".png"), overlay(pixels, prediction))
    stem.with_suffix(".txt").write_text(f"{item.sample.expression}\n{answer.text}\n", encoding="utf-8")


def held_out_loss(
    shop: Workshop, kind: Callable[[Workshop], Objective], data: TrainingData, config: Evaluation
) -> dict[str, float]:
    """The numbers that a stage before the language model has on data it does not train on."""
    draws = [Draw(n, n, unit.items) for n, unit in enumerate(data.units[: config.samples])]
    world, rank = shop.accelerator.num_processes, shop.accelerator.process_index
    plain = shop.recipe.model_copy(update={"data": shop.recipe.data.model_copy(update={"recolour": 0.0})})
    aside = replace(shop, recipe=plain, data=data, meter=Meter())
    with torch.no_grad():
        for loss in kind(aside).losses(draws[rank::world]):
            loss()
    means = aside.meter.means(shop.accelerator)
    return {"eval/" + name.removeprefix("train/").replace("/", "_"): value for name, value in means.items()}

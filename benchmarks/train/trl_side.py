"""TRL's trainer on the task: ``GRPOTrainer.train`` of the installed version, on transformers' own generate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datasets import Dataset
from lens_side import RATE
from PIL import Image
from task import Task, expressions, pictures, variety
from transformers import (
    GenerationConfig,
    PrinterCallback,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer

from lens_bench.lens.modeling import LensModel
from lens_bench.lens.recipe import Recipe
from lens_bench.lens.tiny import byte_tokenizer

# What our prompt is, as a chat template.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Behind(TrainerCallback):
    """Calls back behind every step."""

    def __init__(self) -> None:
        self.call: Callable[[], None] = lambda: None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> TrainerControl:
        self.call()
        return control


def save_model(lens: LensModel, end: int, folder: Path) -> None:
    """The vision-language part with its processor, as transformers reads it."""
    lens.qwen.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=lens.config.padding)  # type: ignore[no-untyped-call]
    lens.qwen.save_pretrained(folder)
    tokenizer = byte_tokenizer().inner
    while len(tokenizer) <= end:
        # transformers takes the end token from the tokenizer: one that the model's output layer does not reach.
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [f"<|{n}|>" for n in range(len(tokenizer), end + 1)]}
        )
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    tokenizer.padding_side = "left"
    processor = Qwen2_5_VLProcessor(  # type: ignore[no-untyped-call]
        image_processor=Qwen2VLImageProcessor(min_pixels=1, max_pixels=lens.config.recipe.max_pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)


def trainer_of(folder: Path, task: Task, out: Path, cpu: bool) -> GRPOTrainer:
    """The trainer set up as ours is: same optimizer settings, float32, no checkpointing of activations, no logging."""
    rows = {
        "prompt": [
            [
                {"role": "system", "content": Recipe().system},
                {"role": "user", "content": Recipe().question.replace("{expression}", text)},
            ]
            for text in expressions(task)
        ],
        "image": [Image.fromarray(p) for p in pictures(task)],
    }
    config = GRPOConfig(
        output_dir=str(out),
        per_device_train_batch_size=task.samples,
        num_generations=task.members,
        max_completion_length=task.tokens,
        max_steps=task.steps,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=task.beta,
        use_bias_correction_kl=False,  # its default multiplies the KL estimate by the ratio, whose gradient is another
        loss_type="grpo",
        temperature=1.0,
        shuffle_dataset=False,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=cpu,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        log_level="error",
        dataloader_pin_memory=False,
        model_init_kwargs={"dtype": "float32"},
    )
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=variety,
        args=config,
        train_dataset=Dataset.from_dict(rows),
        callbacks=[Behind()],
    )
    trainer.remove_callback(PrinterCallback)
    if not task.vision:
        trainer.model.model.visual.requires_grad_(False)
    return trainer


def loop_of(trainer: GRPOTrainer) -> Callable[[Callable[[], None]], None]:
    """For ``Turns``."""

    def loop(behind_step: Callable[[], None]) -> None:
        callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, Behind))
        callback.call = behind_step
        trainer.train()

    return loop

"""The other side of the bench: what a user would pick instead, transformers.Trainer with PEFT's LoRA, as run_glue.

Batches are padded to the maximal length (run_glue's default) or to their longest row (`--pad_to_max_length False`,
DataCollatorWithPadding); float32, scaled_dot_product_attention, torch's own dropout, AdamW, clipping at 1. Rows come in
a given order, so that both sides train on the same batches. PEFT is told to train the pooler too, as ours does.
"""

import tempfile
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import SequentialSampler

from symlora.bench.work import Done, Load, Work, done
from symlora.config.schema import Config
from symlora.model.encoder import head_modules
from symlora.model.source import find, load_tokenizer


class Baseline:
    """A PEFT model and what its Trainer needs.

    Args:
        load: The case, the configuration and the rows.
        device: Where.
        tokenizer: Pads batches to their longest row; None takes the model's.
    """

    def __init__(self, load: Load, device: torch.device, tokenizer: Any = None) -> None:
        from transformers import DataCollatorWithPadding, default_data_collator
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        warnings.filterwarnings("ignore", category=FutureWarning)  # peft 0.21 asks transformers 5.23 for a renamed name
        self.work, self.device, self.config = load.work, device, load.config
        self.to_maximum = load.case.padding == "maximum"
        self.model = _peft_model(load.config, load.case.dropout)
        self.pad_id: int = self.model.config.pad_token_id or 0
        self.collate: Any = default_data_collator
        if not self.to_maximum:
            self.collate = DataCollatorWithPadding(tokenizer or load_tokenizer(find(load.config.model)))

    def trained(self) -> dict[str, int]:
        """Number of values of each trained tensor, by its name in the classifier."""
        from symlora.bench.ours import _plain

        return {_plain(name): p.numel() for name, p in self.model.named_parameters() if p.requires_grad}

    def run(self, turn: int, passes: int) -> tuple[Done, float]:
        """Passes over the rows, and their seconds: the Trainer's own start and end are not counted."""
        from transformers import PrinterCallback, Trainer, TrainingArguments

        work, train = self.work, self.config.train
        order = np.concatenate([work.order(turn, number) for number in range(passes)])
        steps = work.batches * passes
        clock = _clock(self.device)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=work.batch_size,
                max_steps=steps,
                learning_rate=train.lr,
                weight_decay=train.weight_decay,
                warmup_steps=0,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=self.device.type == "cpu",
                dataloader_pin_memory=self.device.type == "cuda",
                seed=turn,
            )
            items = [_item(work, int(row)) for row in order]
            for item in items if self.to_maximum else []:  # run_glue pads in its preprocessing: before time counts
                _pad(item, self.config.data.max_length, self.pad_id)

            class InOrder(Trainer):  # type: ignore[misc]
                """Rows in the order they are given."""

                def _get_train_sampler(self, *_: Any) -> SequentialSampler:
                    return SequentialSampler(items)

            trainer = InOrder(
                model=self.model, args=arguments, train_dataset=items, data_collator=self.collate, callbacks=[clock]
            )
            trainer.remove_callback(PrinterCallback)
            loss = float(trainer.train().training_loss)
        assert clock.steps == steps, f"{clock.steps} steps instead of {steps}"
        return done(work, [order], steps, 1, loss), clock.seconds


def _peft_model(config: Config, dropout: float) -> Any:
    import peft
    from transformers import AutoModelForSequenceClassification

    from symlora.adapters.config import QUERY_VALUE

    source = find(config.model)
    torch.manual_seed(config.seed)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        source.name_or_path,
        num_labels=len(config.task.labels) or 1,
        dtype=torch.float32,
        use_safetensors=True,
        **source.arguments,
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    lora = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=8,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=QUERY_VALUE[model.config.model_type],
        modules_to_save=head_modules(model),
    )
    return peft.get_peft_model(model, lora)


def _item(work: Work, row: int) -> dict[str, Any]:
    """One row as run_glue's preprocessing leaves it."""
    data = work.rows
    start, stop = int(data.offsets[row]), int(data.offsets[row + 1])
    item: dict[str, Any] = {
        "input_ids": data.input_ids[start:stop].tolist(),
        "attention_mask": [1] * (stop - start),
        "labels": data.labels[row].item(),
    }
    if data.token_type_ids is not None:
        item["token_type_ids"] = data.token_type_ids[start:stop].tolist()
    return item


def _pad(item: dict[str, Any], length: int, pad_id: int) -> None:
    for name, fill in (("input_ids", pad_id), ("attention_mask", 0), ("token_type_ids", 0)):
        if name in item:
            item[name] += [fill] * (length - len(item[name]))


def _clock(device: torch.device) -> Any:
    """A callback that takes the time from the first batch's loading to the end of the last step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Seconds and steps of one training."""

        def __init__(self) -> None:
            self.steps, self.seconds, self._started = 0, 0.0, 0.0

        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            if not self.steps:
                self._started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            self.steps += 1
            if self.steps == state.max_steps:
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                self.seconds = time.perf_counter() - self._started

    return Clock()

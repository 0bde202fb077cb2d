"""Train on the same batches with our pack, or with Hugging Face's Trainer and PEFT.

The baseline is run_glue's: batches padded to the maximum length (its default) or to their longest row
(`--pad_to_max_length False`), float32, scaled_dot_product_attention, torch's own dropout, AdamW, clipping at 1. The
strongest rival has bfloat16 weights with PEFT's float32 adapters, batches of like lengths and either attention. Rows
come in a given order, and PEFT is told to train the pooler too, as our side does.
"""

import copy
import tempfile
import warnings
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import nn

from bench.work import Case, Load, now
from symlora.adapters.config import QUERY_VALUE
from symlora.config.schema import Config
from symlora.data.batches import pack_batch
from symlora.model.build import build_pack
from symlora.model.fused import fusing, pick_compile
from symlora.model.head import head_modules
from symlora.model.source import find, load_tokenizer
from symlora.training.loop import train_step
from symlora.training.run_state import RunState

_MANY = 10**6  # steps that the schedule plans for: the learning rate hardly changes; and enough to compile


class Ours:
    """A pack, ready to train; its runs differ in their seed."""

    def __init__(self, load: Load, device: torch.device) -> None:
        self.load, self.device = load, device
        self.compiles = pick_compile("auto", device, load.case.precision, _MANY)
        configs = [copy.deepcopy(load.config) for _ in range(load.case.runs)]
        for seed, config in enumerate(configs):
            config.seed, config.train.model_dropout = seed, load.case.dropout
        self.pack = build_pack(configs, device, load.case.precision)
        models = zip(configs, self.pack.runs, strict=True)
        self.states = [RunState(number, config, model, _MANY) for number, (config, model) in enumerate(models)]

    def run(self, turn: int, passes: int) -> dict[str, float]:
        """Train for some passes; the time of collating counts, as in training."""
        self.pack.encoder.train()
        load, used, losses, started = self.load, [], [], now(self.device)
        with fusing(self.compiles):
            for number in range(passes):
                orders = load.orders(turn, number)
                used += orders
                for step in range(load.steps):
                    batch = pack_batch(load.rows, orders, load.batch_size, step)
                    losses += train_step(self.states, [batch], self.pack, load.batch_size)
        done = load.done(used, load.steps * passes, sum(losses) / len(losses))
        return {**done, "started": started, "stopped": now(self.device)}


_IN_ORDER: Any = {"train_sampling_strategy": "sequential", "save_strategy": "no", "report_to": [], "disable_tqdm": True}


class Baseline:
    """A PEFT model, ready to train; `tokenizer` pads the rows, None takes the model's."""

    def __init__(self, load: Load, device: torch.device, tokenizer: Any = None) -> None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        warnings.filterwarnings("ignore", category=FutureWarning)  # peft 0.21 asks transformers 5.23 for a renamed name
        self.load, self.device = load, device
        self.model = _peft_model(load.config, load.case)
        if load.case.compiled:
            self.model.base_model.model.base_model.compile(dynamic=True)
        self.tokenizer = tokenizer or load_tokenizer(find(load.config.model))
        self.to_maximum = load.case.padding == "maximum"
        by_longest = transformers.DataCollatorWithPadding(self.tokenizer)
        self.collate: Any = transformers.default_data_collator if self.to_maximum else by_longest

    def run(self, turn: int, passes: int) -> dict[str, float]:
        """Train for some passes; the time of the Trainer's start and end does not count."""
        load, train = self.load, self.load.config.train
        order = np.concatenate([load.order(turn, number) for number in range(passes)])
        steps, clock = load.batches * passes, Clock(self.device)
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                per_device_train_batch_size=load.batch_size,
                max_steps=steps,
                learning_rate=train.lr,
                weight_decay=train.weight_decay,
                use_cpu=self.device.type == "cpu",
                dataloader_pin_memory=self.device.type == "cuda",
                seed=turn,
                **_IN_ORDER,
            )
            items = [self._item(int(row)) for row in order]
            trainer = transformers.Trainer(self.model, arguments, self.collate, items, callbacks=[clock])
            trainer.remove_callback(transformers.PrinterCallback)
            loss = float(trainer.train().training_loss)
        assert clock.steps == steps, f"{clock.steps} steps instead of {steps}"
        return {**load.done([order], steps, loss), "started": clock.started, "stopped": clock.stopped}

    def _item(self, row: int) -> Any:
        """One row as run_glue's preprocessing leaves it: padded there, before the clock starts, if to the maximum."""
        data = self.load.rows
        tokens = slice(int(data.offsets[row]), int(data.offsets[row + 1]))
        item: dict[str, Any] = {"input_ids": data.input_ids[tokens].tolist(), "labels": data.labels[row].item()}
        item["attention_mask"] = [1] * len(item["input_ids"])
        if data.token_type_ids is not None:
            item["token_type_ids"] = data.token_type_ids[tokens].tolist()
        if self.to_maximum:
            item = dict(self.tokenizer.pad(item, padding="max_length", max_length=self.load.config.data.max_length))
        return item


class Clock(transformers.TrainerCallback):  # type: ignore[misc]
    """Notes when the first batch's loading starts, and when the last step ends."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.steps, self.started, self.stopped = device, 0, 0.0, 0.0

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.started = self.started or now(self.device)

    def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        self.steps += 1
        if self.steps == state.max_steps:
            self.stopped = now(self.device)


def _peft_model(config: Config, case: Case) -> Any:
    source = find(config.model)
    torch.manual_seed(config.seed)
    model: Any = transformers.AutoModelForSequenceClassification.from_pretrained(
        source.name_or_path,
        num_labels=len(config.task.labels) or 1,
        dtype=torch.bfloat16 if case.precision == "bf16" else torch.float32,
        attn_implementation=case.attention,
        use_safetensors=True,
        **source.arguments,
    )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = case.dropout
    targets, head = QUERY_VALUE[model.config.model_type], head_modules(model)
    return peft.get_peft_model(
        model, peft.LoraConfig("SEQ_CLS", r=8, lora_alpha=8, target_modules=targets, modules_to_save=head)
    )

"""SymLoRA on a GLUE task with transformers.Trainer: SymLoraConfig takes the place of LoraConfig.

    python scripts/examples/trainer.py --model FacebookAI/roberta-base --task mrpc --max-steps 100

Data come from the hub, or with --data from a folder laid out as nyu-mll/glue. See docs/peft.md.
"""

import argparse

import evaluate
from datasets import load_dataset
from peft import get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from symlora import SymLoraConfig
from symlora.metrics import GLUE

COLUMNS = {
    "cola": ["sentence"],
    "sst2": ["sentence"],
    "qnli": ["question", "sentence"],
    "qqp": ["question1", "question2"],
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="FacebookAI/roberta-base", help="hub name or folder")
parser.add_argument("--task", default="mrpc", choices=["cola", "sst2", "mrpc", "qqp", "qnli", "rte"])
parser.add_argument("--data", default="nyu-mll/glue", help="hub name or folder")
parser.add_argument("--max-steps", type=int, default=-1, help="-1: three epochs")
parser.add_argument("--out", default="symlora-adapter")
args = parser.parse_args()

set_seed(0)  # before the adapter is drawn
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2, use_safetensors=True)
model = get_peft_model(model, SymLoraConfig(r=8, alpha=8, target_modules=["query", "value"], task_type="SEQ_CLS"))
model.print_trainable_parameters()

columns = COLUMNS.get(args.task, ["sentence1", "sentence2"])
files = {name: f"{args.task}/{name}-*.parquet" for name in ("train", "validation")}
data = load_dataset(args.data, data_files=files)
data = data.map(
    lambda rows: tokenizer(*(rows[name] for name in columns), truncation=True, max_length=128), batched=True
)

metric = evaluate.load(GLUE, args.task)  # as "glue", but without a network

trainer = Trainer(
    model,
    TrainingArguments(args.out, max_steps=args.max_steps, learning_rate=2e-3, per_device_train_batch_size=16),
    data_collator=DataCollatorWithPadding(tokenizer),
    train_dataset=data["train"],
    eval_dataset=data["validation"],
    compute_metrics=lambda found: metric.compute(predictions=found.predictions.argmax(1), references=found.label_ids),
)
trainer.train()
print(trainer.evaluate())
trainer.save_model(args.out)  # adapter_config.json and adapter_model.safetensors, head included

"""SymLoRA in a training loop of one's own under Accelerate: on one device, or `accelerate launch` on several.

    accelerate launch scripts/examples/accelerate_loop.py --model FacebookAI/roberta-base --task mrpc --max-steps 100

Data come from the hub, or with --data from a folder laid out as nyu-mll/glue. See docs/peft.md.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import load_dataset
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from symlora import SymLoraConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default="FacebookAI/roberta-base", help="hub name or folder")
parser.add_argument("--task", default="mrpc", choices=["mrpc", "rte"])
parser.add_argument("--data", default="nyu-mll/glue", help="hub name or folder")
parser.add_argument("--max-steps", type=int, default=100)
parser.add_argument("--out", default="symlora-adapter")
args = parser.parse_args()

set_seed(0)  # before the adapter is drawn
accelerator = Accelerator()
tokenizer = AutoTokenizer.from_pretrained(args.model)
model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2, use_safetensors=True)
model = get_peft_model(model, SymLoraConfig(r=8, alpha=8, target_modules=["query", "value"], task_type="SEQ_CLS"))

rows = load_dataset(args.data, data_files={"train": f"{args.task}/train-*.parquet"})["train"]
rows = rows.map(lambda row: tokenizer(row["sentence1"], row["sentence2"], truncation=True, max_length=128))
rows = rows.remove_columns(["sentence1", "sentence2", "idx"])
loader = DataLoader(rows, batch_size=16, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.0)  # decay would pull λ, the scale of W0, toward 0
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

model.train()  # from_pretrained leaves dropout off
step = 0
while step < args.max_steps:
    for batch in loader:
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 10 == 0 or step == args.max_steps:
            accelerator.print(f"step {step}: loss {loss.item():.4f}")
        if step == args.max_steps:
            break
accelerator.wait_for_everyone()
if accelerator.is_main_process:
    accelerator.unwrap_model(model).save_pretrained(args.out)

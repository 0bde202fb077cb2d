"""SymLoRA adapters in and out: merged models, LoRA adapters, model cards.

    stored      what is in an adapter's folder, and writing one whole or not at all
    to_lora     SymLoRA -> LoRA, exact but for λ, which goes into a base-scale file (base_scale)
    to_symlora  LoRA -> its best symmetric approximation (symmetric)
    loralib     a checkpoint of LoRA's own code -> LoRA adapter
    merged      any adapter and its base model -> one plain model
    model_card  the README.md beside a run's adapter

The command is `symlora export` (symlora.cli).
"""

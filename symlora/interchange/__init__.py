"""Convert adapters: to merged models, to LoRA, to SymLoRA.

    to_lora     SymLoRA -> LoRA, exact but for λ, which goes into a base-scale file (base_scale)
    to_symlora  LoRA -> its best symmetric approximation (symmetric)
    loralib     a checkpoint of LoRA's own code -> LoRA adapter
    merged      any adapter and its base model -> one plain model
    write       adapter folders, written atomically

symlora.store.adapter_folder reads them. The command is `symlora export` (symlora.cli). Nothing here needs the packages
of the GLUE pipeline.
"""

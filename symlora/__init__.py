"""Give PEFT SymLoRA (arXiv 2504.03719) and a harness for adapters on GLUE.

`import symlora` imports neither torch nor peft. Yet it is enough for PEFT to know the method: SymLoRA is registered as
soon as peft is imported, before or after symlora, so `PeftModel.from_pretrained` loads its adapters.
"""

from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from symlora.adapters.symlora import SymLoraConfig as SymLoraConfig
    from symlora.adapters.symlora import SymLoraModel as SymLoraModel

    __version__: str

__all__ = ["SymLoraConfig", "SymLoraModel", "__version__"]


def _register(peft: Any) -> None:
    import symlora.adapters  # noqa: F401


wrapt.register_post_import_hook(_register, "peft")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("symlora")
    if name in __all__:
        import symlora.adapters

        return getattr(symlora.adapters, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(globals().keys() | set(__all__))

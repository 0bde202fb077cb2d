"""SymLoRA (arXiv 2504.03719) for PEFT, and one harness for adapter methods on GLUE.

`import symlora` takes milliseconds: neither torch nor peft is imported. It is also enough for PEFT to know the method:
as soon as peft is imported, before or after, SymLoRA is registered, so `PeftModel.from_pretrained` loads its adapters.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as type checkers know it, without the 20 ms that importing `typing` takes
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

    from symlora.adapters.symlora import SymLoraConfig, SymLoraModel

    __version__: str

__all__ = ["SymLoraConfig", "SymLoraModel", "__version__"]


def _register() -> None:
    from symlora.adapters.registry import register

    register()


class _RegisterAfterPeft:
    """An import finder that finds nothing itself: it lets peft be found and run as ever, and then registers us.

    (`wrapt.when_imported` is the same in 120 ms: wrapt brings asyncio and inspect.)
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "peft":
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_then_register(module: ModuleType) -> None:
                run(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _register()

            spec.loader.exec_module = run_then_register  # type: ignore[method-assign]
        return spec


if "peft" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _RegisterAfterPeft())


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

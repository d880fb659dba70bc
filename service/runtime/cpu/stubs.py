# ruff: noqa: ANN401, PLC0415  stands for untyped packages; looks for them before they are needed
"""Stand-ins for triton and torchvision, which SGLang imports everywhere and a dense Llama on CPU never runs.

Owns what happens at import time: decorating kernels, naming types, subclassing. Refuses to pretend at run time:
launching a kernel or calling anything of a stand-in raises StandInCalledError with its name. `install()` must run
before SGLang is imported, in every process.
"""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NoReturn

PACKAGES = ("triton", "torchvision")


class StandInCalledError(RuntimeError):
    """Something needed the real package."""

    def __init__(self, called: str) -> None:
        package = called.split(".", 1)[0]
        super().__init__(
            f"{called} was called, but {package} is not installed: "
            "Aerie's CPU runtime serves dense Llama-type models, which do not need it"
        )


class _PlaceholderType(type):
    """Metaclass of placeholders: any attribute, subscript or union names another one; calling it raises."""

    path: str

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _lookup(f"{cls.path}.{name}")

    def __call__(cls, *_args: object, **_kwargs: object) -> NoReturn:
        raise StandInCalledError(cls.path)

    def __getitem__(cls, _item: object) -> "_PlaceholderType":
        return cls

    def __or__(cls, _other: object) -> "_PlaceholderType":
        return cls

    __ror__ = __or__

    def __instancecheck__(cls, _instance: object) -> bool:
        return False


def _placeholder(path: str) -> _PlaceholderType:
    return _PlaceholderType(path.rsplit(".", 1)[-1], (), {"path": path})


class StandInKernel:
    """A function decorated with @triton.jit: keeps its name and source, cannot be launched."""

    def __init__(self, function: Callable[..., object]) -> None:
        functools.update_wrapper(self, function)
        self.fn = function

    def __getitem__(self, _grid: object) -> "StandInKernel":
        return self

    def __call__(self, *_args: object, **_kwargs: object) -> NoReturn:
        """Launching is what a stand-in cannot do."""
        raise StandInCalledError(f"triton kernel {self.fn.__module__}.{self.fn.__qualname__}")

    run = warmup = __call__


def jit(function: Callable[..., object] | None = None, **_options: object) -> Any:
    """triton.jit, bare or with options."""
    return jit if function is None else StandInKernel(function)


def _decorate_with_options(*_args: object, **_kwargs: object) -> Callable[[Any], Any]:
    """triton.autotune(...) and triton.heuristics(...): hand the kernel through."""
    return lambda kernel: kernel


class Config:
    """triton.Config, created at import time for autotune lists."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        pass


class constexpr:  # noqa: N801  triton's name
    """tl.constexpr: an annotation, and at module level a wrapper of plain values."""

    def __new__(cls, value: Any = None) -> Any:
        """The value itself."""
        return value


def next_power_of_2(n: int) -> int:
    """Host-side arithmetic SGLang borrows from triton."""
    return 1 << (n - 1).bit_length() if n > 0 else 1


def cdiv(a: int, b: int) -> int:
    """Division rounded up, as in triton."""
    return -(-a // b)


def _ignore(*_args: object, **_kwargs: object) -> None:
    """Registering to hear of kernels being loaded: none ever is."""


_PROVIDED: dict[str, Any] = {
    "triton.jit": jit,
    "triton.autotune": _decorate_with_options,
    "triton.heuristics": _decorate_with_options,
    "triton.Config": Config,
    "triton.next_power_of_2": next_power_of_2,
    "triton.cdiv": cdiv,
    "triton.language.constexpr": constexpr,
    "triton.knobs.runtime.kernel_load_start_hook.add": _ignore,
}


def _lookup(path: str) -> Any:
    return _PROVIDED.get(path) or _placeholder(path)


class _StandInModule(ModuleType):
    __version__ = "0.0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _lookup(f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class _Finder(MetaPathFinder, Loader):
    """Serves every module below the given package names."""

    def __init__(self, packages: frozenset[str]) -> None:
        self.packages = packages

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".", 1)[0] in self.packages else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        del module


def _settle_availability() -> None:
    """Have torch and transformers look for the packages now: they cache the answer, which a stand-in would change."""
    from torch.utils._triton import has_triton_package
    from transformers.utils import import_utils

    for check in (has_triton_package, import_utils.is_torchvision_available, import_utils.is_triton_available):
        check()


def install(packages: Sequence[str] = PACKAGES, *, force: bool = False) -> frozenset[str]:
    """Stand in for those of `packages` that are not installed (all of them if `force`); returns which.

    Raises RuntimeError if a package to be replaced was imported before.
    """
    wanted = frozenset(name for name in packages if force or importlib.util.find_spec(name) is None)
    if loaded := sorted(wanted & sys.modules.keys()):
        raise RuntimeError(f"{', '.join(loaded)}: imported before the stand-ins were installed")
    if wanted:
        if not force:
            _settle_availability()
        sys.meta_path.insert(0, _Finder(wanted))
    return wanted

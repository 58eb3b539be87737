"""Calling a loss of unknown make: the forms of call it may take, and what it may not return."""

import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dft_theory.logprobs import align
from dft_theory.testing import cases
from dft_theory.testing.cases import Case


class CallError(Exception):
    """The loss could not be called, or returned something that is not a scalar loss."""


class ModelOutput(dict[str, Tensor]):
    """What a Hugging Face model returns: `.logits`, `["logits"]` and, as the only item, `[0]`."""

    def __getitem__(self, key: str | int) -> Tensor:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

    @property
    def logits(self) -> Tensor:
        """Logits `[B, T, V]`."""
        return self["logits"]


@dataclass(frozen=True)
class Answer:
    """What one call returned, and the gradient in the logits; `changed` names altered inputs."""

    value: Tensor
    gradient: Tensor
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallForm:
    """How a loss takes its arguments."""

    text: str
    first: Callable[[Tensor], Any]
    count: Callable[[int | None], tuple[Any, ...]]


def _call_forms() -> Iterator[CallForm]:
    firsts: tuple[tuple[str, Callable[[Tensor], Any]], ...] = (
        ("logits", lambda z: z),
        ("outputs", lambda z: ModelOutput(logits=z)),
    )
    for name, first in firsts:
        # Hugging Face passes N as a tensor in some versions and as an int in others.
        yield CallForm(
            f"f({name}, labels, N)", first, lambda n: (None if n is None else torch.tensor(n),)
        )
        yield CallForm(f"f({name}, labels, N as int)", first, lambda n: (n,))
        yield CallForm(f"f({name}, labels)", first, lambda _: ())


@dataclass(frozen=True)
class LossFunction:
    """A loss of unknown make, called on fresh copies so that no call can spoil the next."""

    fn: Callable[..., Any]
    form: CallForm
    dtype: torch.dtype = torch.float64

    def __call__(self, case: Case, **options: Any) -> Answer:
        """Value and gradient. Raises: CallError with what is wrong, in a sentence."""
        leaf = case.logits.to(self.dtype, copy=True).requires_grad_(True)
        logits, labels = leaf.clone(), case.labels.clone()
        before, shown = logits.detach().clone(), labels.clone()
        try:
            given = (self.form.first(logits), labels, *self.form.count(case.count))
            value = self.fn(*given, **options)
        except (Exception, SystemExit) as error:
            raise CallError(f"it raises {type(error).__name__}: {error}") from error
        value = _scalar(value, logits)
        try:
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
        except Exception as error:
            raise CallError(f"backward raises {type(error).__name__}: {error}") from error
        if gradient is None:
            raise CallError("its value does not depend on the logits: no gradient reaches them")
        pairs = (("logits", before, logits.detach()), ("labels", shown, labels))
        changed = tuple(name for name, old, new in pairs if not identical(old, new))
        return Answer(value.detach().reshape(()), gradient, changed)


def _scalar(value: Any, logits: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise CallError(f"it returns {type(value).__name__}: return the loss, a scalar tensor")
    if value.numel() != 1:
        shape = list(value.shape)
        raise CallError(f"it returns shape {shape}, not a scalar: reduce the per-token terms")
    if not value.is_floating_point():
        raise CallError(f"it returns {value.dtype}, not a floating-point loss")
    if value.device != logits.device:
        raise CallError(f"it returns a loss on {value.device} for logits on {logits.device}")
    if not value.requires_grad:
        raise CallError(
            "its value has no graph (requires_grad is False): backward would raise. "
            "Return a sum over terms that keeps the graph, not a new tensor"
        )
    return value


def caller_shifts(fn: Callable[[Tensor, Tensor], Any]) -> Callable[[Tensor, Tensor, Any], Any]:
    """Adapter for a loss `fn(logits, targets)` that wants its caller to shift the labels.

    Such a loss cannot know the global count: declare `MicrobatchTokenMean`.
    """

    def shifted(logits: Tensor, labels: Tensor, _: Any = None) -> Any:
        return fn(*align(logits, labels))

    return shifted


def recognised(fn: Callable[..., Any], *batches: Case) -> LossFunction:
    """The loss with the first form of call that it accepts on the batches, in float64 if it can.

    The default batches are the smallest one and an ordinary one. A form that works with and
    without N comes before one that works in one of the two cases.
    Raises: CallError with what each form of call met.
    """
    if inspect.isclass(fn):
        raise CallError(f"{fn.__name__} is a class: name an instance of it, or a function")
    tried: dict[str, str] = {}
    partly = []
    for dtype in (torch.float64, torch.float32):
        for form in _call_forms():
            if not _binds(fn, 2 + len(form.count(None))):
                continue
            loss = LossFunction(fn, form, dtype)
            errors = [error for error in (trouble(loss, n, *batches) for n in (None, 1)) if error]
            if not errors:
                return loss
            tried.setdefault(errors[-1], form.text)
            partly += [loss] if len(errors) == 1 else []
    if partly:
        return partly[0]
    if not tried:
        raise CallError(
            f"its parameters {inspect.signature(fn)} fit neither (logits, labels, N) nor "
            "(logits, labels): bind the others with functools.partial"
        )
    # A form that returns something is the loss's own: what the others met says nothing.
    told = {e: form for e, form in tried.items() if not e.startswith("it raises")} or tried
    met = "; ".join(f"{form}: {error}" for error, form in told.items())
    raise CallError(f"no call succeeded. {met}")


def trouble(loss: LossFunction, count: int | None, *batches: Case) -> str:
    """What is wrong with calls on the batches, by default a small and an ordinary one; or ""."""
    try:
        with warnings.catch_warnings():  # of what a wrong guess does to the loss
            warnings.simplefilter("ignore")
            for case in batches or (cases.one_token(), cases.ragged()):
                loss(case.with_count(count))
    except CallError as error:
        return str(error)
    return ""


def _binds(fn: Callable[..., Any], arguments: int) -> bool:
    try:
        inspect.signature(fn).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature: try it
        return True
    return True


def identical(a: Tensor, b: Tensor) -> bool:
    """Equal in shape and in every number, NaN where NaN is."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())

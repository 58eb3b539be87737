"""The X-ray of a loss: what it does to the logits, recovered from its gradient alone.

Any loss on logits and labels pulls at the logits of each position. From that pull come the weight
w(p) it gives to a target of probability p, what else the weight depends on, whether a potential
exists, and the nearest relative in the catalogue or among well-known wrong forms.
"""

from collections.abc import Callable

from dft_theory.objectives import Objective
from dft_theory.xrays import curve, structure
from dft_theory.xrays.loss_fields import loss_field
from dft_theory.xrays.relatives import relatives
from dft_theory.xrays.result import Edge, Relative, XRay
from dft_theory.xrays.seen import Seen, precision

__all__ = ["Edge", "Relative", "XRay", "xray"]


def xray(f: Objective | str | Callable[..., object]) -> XRay:
    """X-ray an objective, by itself or by name, or a loss, by itself or as `module:name`.

    A loss takes logits `[B, T, V]` and labels `[B, T]`, unshifted, -100 where there is no target,
    and the number of targets where it has a third parameter for it; see `loss_field`.

    Raises: ValueError for what is no such loss, saying why.
    """
    field = loss_field(f)
    seen = Seen(field, precision(field))
    weight = seen.weights[0]
    reach, depends_on = structure.level(seen), structure.depends_on(seen)
    conservative, asymmetry, error = structure.potential(seen)
    of_p = not (depends_on or seen.adds_target or field.given) and reach == "token"
    return XRay(
        name=field.name,
        precision=seen.precision,
        given=field.given,
        is_objective=field.is_objective,
        p=tuple(seen.p.tolist()),
        weight=tuple(weight.tolist()),
        at_zero=curve.edge(weight, seen.p, seen.eps),
        at_one=curve.edge(weight.flip(0), seen.q.flip(0), seen.eps),
        sign_changes=curve.sign_changes(seen),
        adds_target=seen.adds_target,
        depends_on=depends_on,
        level=reach,
        potential=conservative,
        asymmetry=asymmetry,
        asymmetry_error=error,
        remarks=structure.remarks(seen),
        relatives=relatives(seen, reach, of_p=of_p),
    )

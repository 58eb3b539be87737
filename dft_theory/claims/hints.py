"""Given the beginning of a solution: hints, prefixes, and trees with one rewarded leaf."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dft_theory import enumeration
from dft_theory.claims.base import Assumption, Claim, Mutant
from dft_theory.claims.hybrids import ADVANTAGES, FREE, drawn, rewarded, rollouts
from dft_theory.claims.policy_gradient import one_demo_each
from dft_theory.claims.rectification import token_sum
from dft_theory.claims.scope import PolicyCase, Scope
from dft_theory.logprobs import TokenStats
from dft_theory.objectives import SumOver, reinforce
from dft_theory.objectives.mixture_rules import hint_survival, prefix_advantages
from dft_theory.objectives.mixtures import prefix_rft, uft
from dft_theory.policies import TabularPolicy

SUM = SumOver()


def only(t: TokenStats, keep: Tensor) -> TokenStats:
    """The statistics of the target tokens marked by `keep`, which broadcasts to `[B, T]`."""
    mask = t.mask & keep
    return replace(t, mask=mask, logp=t.logp.masked_fill(~mask, 0.0))


# ---- hints and prefixes ------------------------------------------------------------------------


@dataclass(frozen=True)
class Hinted:
    """A demonstration of which the first l tokens are given, l ~ Bin(T, p)."""

    at: PolicyCase
    p: float

    def __str__(self) -> str:
        return f"p = {self.p:g}, {self.at}"

    @property
    def terms(self) -> int:
        """Number of coin flips' outcomes."""
        return int(2**self.at.policy.length)


BETA = 0.2


def hinted(scope: Scope) -> Sequence[Hinted]:
    """Hint probabilities from almost never to almost always."""
    return [Hinted(at, p) for at in one_demo_each(scope) for p in (0.05, 0.5, 0.95)]


def flips(length: int, p: float) -> Sequence[tuple[int, float]]:
    """Every outcome of `length` coin flips: number of heads, and probability."""
    outcomes = itertools.product((0, 1), repeat=length)
    return [(sum(o), p ** sum(o) * (1 - p) ** (length - sum(o))) for o in outcomes]


def mean_hint_gradient(case: Hinted) -> Tensor:
    """Expected UFT gradient over hints, continuations unrewarded, `[D]`."""
    stats = rewarded(case.at.stats, torch.zeros(1, dtype=torch.float64))
    position = torch.arange(stats.logp.shape[-1])
    mixture, total = uft(BETA), torch.zeros((), dtype=torch.float64)
    for heads, chance in flips(case.at.policy.length, case.p):
        sources = {
            "hints": only(stats, position < heads),
            "continuations": only(stats, position >= heads),
        }
        total = total + chance * mixture.surrogate(sources, reduction=SUM)
    return case.at.gradient(total)


def hint_gradient(case: Hinted, weight: Tensor) -> Tensor:
    """-beta sum_h weight_h grad log pi_h, `[D]`."""
    return -BETA * token_sum(case.at, weight)


@dataclass(frozen=True)
class Prefixed:
    """The first `cut` tokens of a demonstration, and rewards of continuations sampled from it."""

    at: PolicyCase
    cut: int
    rewards: tuple[float, ...]

    def __str__(self) -> str:
        return f"prefix of {self.cut}, rewards {self.rewards}, {self.at}"

    @property
    def terms(self) -> int:
        """Number of terms in a sum over responses."""
        return self.at.terms

    @cached_property
    def advantages(self) -> tuple[Tensor, Tensor]:
        """Of the continuations and of the prefix, `[K]` each."""
        return prefix_advantages(torch.tensor(self.rewards, dtype=torch.float64), FREE)

    @cached_property
    def before(self) -> Tensor:
        """Which tokens belong to the prefix, `[T]`."""
        return torch.arange(self.at.policy.length) < self.cut

    @cached_property
    def prefix_score(self) -> Tensor:
        """Grad log pi of the prefix, from the total probability of what begins with it, `[D]`."""
        rest = self.at.policy.vocab ** (self.at.policy.length - self.cut)
        row = self.at.index // rest
        return self.at.gradient(self.at.probs[row * rest : (row + 1) * rest].sum().log())

    @cached_property
    def continuation_score(self) -> Tensor:
        """Grad log pi of the rest given the prefix, `[D]`."""
        return self.at.scores[self.at.index] - self.prefix_score

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the Prefix-RFT surrogate where every continuation is the demonstration's."""
        k = len(self.rewards)
        stats = self.at.policy.stats(self.at.prompt, self.at.demo.expand(k, -1))
        continued, prefix = self.advantages
        sources = {
            "rollouts": rollouts(self.at),
            "continuations": rewarded(only(stats, ~self.before), continued),
            "prefixes": rewarded(only(stats, self.before), prefix),
        }
        return self.at.gradient(prefix_rft().surrogate(sources, reduction=SUM))

    @cached_property
    def on_the_prefix(self) -> Tensor:
        """What the prefix tokens alone receive, summed over the continuations, `[D]`."""
        stats = self.at.policy.stats(self.at.prompt, self.at.demo.expand(len(self.rewards), -1))
        prefixes = rewarded(only(stats, self.before), self.advantages[1])
        return self.at.gradient(reinforce.surrogate(prefixes, reduction=SUM))

    def by_hand(self, continuation: float, prefix: float) -> Tensor:
        """Loss gradient with these advantages, and the rollouts' part, `[D]`."""
        free = ADVANTAGES @ self.at.scores[drawn(self.at)]
        return -(continuation * self.continuation_score + prefix * self.prefix_score + free)


def prefixed(*rewards: tuple[float, ...]) -> Callable[[Scope], Sequence[Prefixed]]:
    """Prefixes of one token, with each pattern of rewards."""
    return lambda scope: [Prefixed(at, 1, r) for at in one_demo_each(scope) for r in rewards]


# ---- needle trees ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Needle:
    """A tree of depth H with B branches at each node, one rewarded leaf, hints with chance p."""

    branches: int
    depth: int
    p: float = 0.0
    explored: int = 0

    def __str__(self) -> str:
        return f"B = {self.branches}, H = {self.depth}, p = {self.p:g}, n = {self.explored}"

    @property
    def leaves(self) -> int:
        """B^H."""
        return int(self.branches**self.depth)

    @property
    def terms(self) -> int:
        """Number of leaves and flips that are summed over."""
        return int(self.leaves * 2**self.depth)


def needles(scope: Scope) -> Sequence[Needle]:
    """Small trees, hints from never to nearly always."""
    sizes = [(2, 1), (2, 3), (3, 2), (4, 3)] + ([(2, 8), (5, 4)] if scope.thorough else [])
    return [Needle(b, h, p) for b, h in sizes for p in (0.0, 0.05, 0.5, 0.95)]


def success_with_hints(case: Needle) -> Tensor:
    """Chance to end at the needle, summed over hints and all leaves of a uniform policy, `[1]`."""
    uniform = TabularPolicy(torch.zeros(1, case.depth, case.branches).double(), case.depth)
    leaves, probs = uniform.responses(), enumeration.probabilities(uniform, torch.tensor([0]))
    needle = leaves[case.leaves // 2]
    total = torch.zeros(1, dtype=torch.float64)
    for heads, chance in flips(case.depth, case.p):
        follows = (leaves[:, :heads] == needle[:heads]).all(-1)
        found = (leaves == needle).all(-1)
        total = total + chance * probs[found].sum() / probs[follows].sum()
    return total


def explorations(scope: Scope) -> Sequence[Needle]:
    """Every number of leaves below B^H/4 that can be tried exhaustively."""
    sizes = [(2, 2), (2, 3), (3, 2), (2, 4)] + ([(4, 2)] if scope.thorough else [])
    return [Needle(b, h, 0.0, n) for b, h in sizes for n in range(-(-(b**h) // 4))]


def best_search(case: Needle) -> Tensor:
    """Best chance to name the needle after `explored` leaves, over all searches; and 1[< 1/2].

    The needle is uniform. Until it is found nothing is learned but that it is elsewhere, so a
    search is a set of leaves and a last guess; a random one is no better than its best outcome.
    """
    best = 0.0
    for tried in itertools.combinations(range(case.leaves), case.explored):
        for guess in range(case.leaves):
            named = sum(needle in tried or needle == guess for needle in range(case.leaves))
            best = max(best, named / case.leaves)
    return torch.tensor([best, float(best < 0.5)], dtype=torch.float64)


def chance(case: Needle, hits: float) -> Tensor:
    """A chance of hits / B^H, and that it is below one half."""
    return torch.tensor([hits / case.leaves, 1.0], dtype=torch.float64)


def closed(value: float) -> Tensor:
    """A closed form as a side."""
    return torch.tensor([value], dtype=torch.float64)


LONGER = Assumption(
    "the response has at least two tokens",
    "a prefix that is the whole response leaves nothing to continue",
    holds=lambda c: c.at.policy.length > 1,
)

CLAIMS = (
    Claim(
        name="hint-weight-is-survival",
        title="UFT imitates position h with weight P(l > h)",
        kind="identity",
        statement=r"\mathbb{E}_{l \sim \mathrm{Bin}(T, p)}\left[\beta \sum_{h < l} \nabla \log "
        r"\pi_h\right] = \beta \sum_{h=0}^{T-1} P(l > h)\, \nabla \log \pi_h",
        note="A token is imitated when the hint reaches past it, so the weight falls along the "
        "solution: first steps are taught, last steps are found. p = 0 is RL, p = 1 is SFT.",
        cites=("liu2025uft",),
        cases=hinted,
        lhs=mean_hint_gradient,
        rhs=lambda c: hint_gradient(c, hint_survival(c.at.policy.length, c.p)),
        mutants=(
            Mutant(
                "P(l >= h)",
                lambda c: hint_gradient(c, hint_survival(c.at.policy.length, c.p).roll(1)),
                equivalent_when=lambda c: c.at.policy.length == 1,
                why="one token",
            ),
            Mutant(
                "p for every position",
                lambda c: hint_gradient(
                    c, torch.full((c.at.policy.length,), c.p, dtype=torch.float64)
                ),
                equivalent_when=lambda c: c.at.policy.length == 1,
                why="one token",
            ),
            Mutant(
                "last steps first",
                lambda c: hint_gradient(c, hint_survival(c.at.policy.length, c.p).flip(0)),
                equivalent_when=lambda c: c.at.policy.length == 1,
                why="one token",
            ),
        ),
    ),
    Claim(
        name="hints-find-the-needle",
        title="What hints do for a reward at one leaf",
        kind="identity",
        statement=r"\mathbb{E}_{l \sim \mathrm{Bin}(H, p)}[\text{success}] = "
        r"\left(p + \frac{1 - p}{B}\right)^H",
        note="A uniform policy on a tree of depth H with B branches and one rewarded leaf. Without "
        "hints the chance is B^-H; each step then counts as if it were known with chance p.",
        cites=("liu2025uft",),
        cases=needles,
        lhs=success_with_hints,
        rhs=lambda c: closed((c.p + (1 - c.p) / c.branches) ** c.depth),
        mutants=(
            Mutant(
                "one step less",
                lambda c: closed((c.p + (1 - c.p) / c.branches) ** (c.depth - 1)),
            ),
            Mutant(
                "all or nothing",
                lambda c: closed(c.p**c.depth + (1 - c.p**c.depth) / c.leaves),
                equivalent_when=lambda c: c.depth == 1 or c.p == 0,
                why="one step, or never a hint",
            ),
            Mutant(
                "p and 1 - p exchanged",
                lambda c: closed((1 - c.p + c.p / c.branches) ** c.depth),
                equivalent_when=lambda c: c.p == 0.5,
                why="as many hints as not",
            ),
        ),
    ),
    Claim(
        name="needles-need-exploration",
        title="Less than a quarter of the leaves explored, less than half the needles found",
        kind="identity",
        statement=r"\max_{\text{searches of } n \text{ leaves}} P(\text{success}) = "
        r"\frac{n + 1}{B^H} < \frac{1}{2} \qquad \left(n < \frac{B^H}{4}\right)",
        note="The needle is uniform over the leaves, and a search may end with a guess. Over all "
        "sets of leaves and all guesses; the reason why RL alone needs exponentially many.",
        cites=("liu2025uft",),
        cases=explorations,
        assumptions=(
            Assumption(
                "B^H >= 4 and n < B^H / 4",
                "with few leaves the guess decides; with more explored the bound is not 1/2",
                holds=lambda c: c.leaves >= 4 and 4 * c.explored < c.leaves,
            ),
        ),
        lhs=best_search,
        rhs=lambda c: chance(c, c.explored + 1),
        mutants=(
            Mutant("no guess at the end", lambda c: chance(c, c.explored)),
            Mutant(
                "leaves drawn with replacement",
                lambda c: chance(c, c.leaves * (1 - (1 - 1 / c.leaves) ** (c.explored + 1))),
                equivalent_when=lambda c: c.explored == 0,
                why="one draw",
            ),
        ),
    ),
    Claim(
        name="single-continuations-are-never-pushed-down",
        title="Prefix-RFT: a failed continuation teaches nothing, its prefix is unlearned",
        kind="identity",
        statement=r"-\nabla \mathcal{L} = r\, \nabla \log \pi(y_{\ge k} \mid y_{<k}, x) + "
        r"(r - \bar{r})\, \nabla \log \pi(y_{<k} \mid x) + \sum_i \hat{A}_i\, \nabla \log "
        r"\pi(y_i \mid x)",
        note="One continuation is a group of its own, which has mean 0 and deviation 1 in the "
        "released code: its advantage is the raw reward. With rewards 0 and 1 it is never "
        "negative, unlike every other advantage there.",
        cites=("huang2025prefix",),
        cases=prefixed((0.0,), (1.0,)),
        assumptions=(LONGER,),
        lhs=lambda c: c.gradient,
        rhs=lambda c: c.by_hand(c.rewards[0], c.rewards[0] - float(FREE.mean())),
        mutants=(
            Mutant(
                "baseline for the continuation too",
                lambda c: c.by_hand(*[c.rewards[0] - float(FREE.mean())] * 2),
            ),
            Mutant(
                "normalised within its group",
                lambda c: c.by_hand(0.0, c.rewards[0] - float(FREE.mean())),
                equivalent_when=lambda c: c.rewards[0] == 0,
                why="the reward is 0",
            ),
            Mutant("raw reward for the prefix", lambda c: c.by_hand(*[c.rewards[0]] * 2)),
        ),
    ),
    Claim(
        name="several-continuations-forget-their-prefix",
        title="Prefix-RFT: with several continuations, a prefix is pushed down however good it is",
        kind="identity",
        statement=r"-\nabla \mathcal{L}_{\text{prefix}} = -\bar{r}\, \nabla \log \pi(y_{<k} \mid x)"
        r" \qquad (K > 1)",
        note="The released code credits the prefix with its continuations' scores less the mean "
        "reward of free rollouts. The scores are normalised first and sum to zero, the mean is in "
        "units of reward: what the continuations earned cancels. With one continuation the score "
        "is the reward, and the prefix is judged as intended.",
        cites=("huang2025prefix",),
        cases=prefixed((1.0, 0.0), (1.0, 1.0), (1.0, 1.0, 1.0, 0.0), (0.0, 0.0, 0.0)),
        assumptions=(LONGER,),
        lhs=lambda c: c.on_the_prefix,
        rhs=lambda c: FREE.mean() * c.prefix_score,
        mutants=(
            Mutant(
                "what the continuations earned, less the free mean",
                lambda c: -(sum(c.rewards) / len(c.rewards) - FREE.mean()) * c.prefix_score,
                equivalent_when=lambda c: not any(c.rewards),
                why="they earned nothing",
            ),
            Mutant("opposite sign", lambda c: -FREE.mean() * c.prefix_score),
            Mutant("not divided by K", lambda c: len(c.rewards) * FREE.mean() * c.prefix_score),
        ),
    ),
)

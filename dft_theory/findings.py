"""What each toy experiment found, in a sentence that its recorded predictions bear out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`says` rests on predictions of the experiment that `held` and others that `failed`.

    `figures` are names of the figures that show it, the main one first.
    """

    experiment: str
    says: str
    held: tuple[str, ...]
    failed: tuple[str, ...] = ()
    figures: tuple[str, ...]

    def contradicted(self, outcome: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Predictions that came out otherwise in a record's `outcome`, or are not in it."""
        wanted = dict.fromkeys(self.held, True) | dict.fromkeys(self.failed, False)
        return [n for n, holds in wanted.items() if outcome.get(n, {}).get("holds") is not holds]


FINDINGS = (
    Finding(
        experiment="capability-continuum",
        says="From a weak prior DFT trails on clean demonstrations by every scoring. Under noise "
        "it leads at temperature 1; from a strong prior hardly any of that lead is left where "
        "runs may stop early and are read greedily.",
        held=("weak-clean", "weak-clean-greedy", "middle-noise-sign", "strong-noise-early"),
        figures=("capability_continuum",),
    ),
    Finding(
        experiment="five-bases",
        says="DFT leads SFT at temperature 1 from the three strongest of five bases. The published "
        "order DFT > SFT > base does not hold for all five, sampled or greedily.",
        held=("lead", "lead-own"),
        failed=("paper-order", "paper-order-greedy"),
        figures=("table1",),
    ),
    Finding(
        experiment="learning-curves",
        says="From a strong prior DFT is soon ahead and near its best, though not as soon as "
        "published, while SFT falls below the base greedily. From a weak prior it stays behind.",
        held=("ahead-by-120", "plateau", "sft-falls-greedily", "weak-behind"),
        failed=("ahead-by-20",),
        figures=("fig1",),
    ),
    Finding(
        experiment="rate-and-batch",
        says="At temperature 1 DFT's lead is no accident of SFT's learning rate. Greedily it is: "
        "there SFT wants a far lower rate, and with it the two are nearly even.",
        held=("lead", "every-rate", "greedy-by-greedy", "sft-wants-less"),
        figures=("fig3",),
    ),
    Finding(
        experiment="sensitivity",
        says="Under noise the lead at temperature 1 survives every change but one: errors along "
        "the base's own wrong rule leave less than half. With many demonstrations hardly any of "
        "it is left greedily.",
        held=("lead-stays", "aligned", "many-greedy"),
        figures=("sensitivity",),
    ),
    Finding(
        experiment="compute-boundary",
        says="The weak-prior deficit is one of compute: it begins at SFT's escape time and ends "
        "at DFT's, which the closed form foretells on clean labels. Under noise, from the weakest "
        "priors, the line comes too early.",
        held=("half-time", "deficit-before", "deficit-ends", "noise-delays-weak-priors"),
        failed=("noise-slows-dft", "boundary"),
        figures=("compute_boundary",),
    ),
    Finding(
        experiment="confounds",
        says="From a strong prior under noise, scoring at temperature 1 moves the gap more than "
        "any choice of the published trainer. Summed gradients and clipping do little, as AdamW "
        "normalises already; bfloat16 does more than was predicted.",
        held=("scoring-is-most", "clip-is-little", "x8-clip-is-little"),
        failed=("bfloat16-is-little",),
        figures=("confounds",),
    ),
    Finding(
        experiment="relatives",
        says="A floor under the weight, the root of p, or SFT before DFT keep a lead under noise "
        "without the deficit at a weak prior. Greedily no relative is much above a strong base.",
        held=("floor-has-both", "power-has-both", "stages-have-both", "no-greedy-gain"),
        figures=("relatives",),
    ),
    Finding(
        experiment="new-format",
        says="A token that no base has seen is the last thing DFT learns, at rates that SFT does "
        "not need. A floor under that token's weight alone gives it back, nearly for free.",
        held=("sgd-low", "learned-and-robust", "named-floor-is-free"),
        figures=("new_format",),
    ),
    Finding(
        experiment="granularity",
        says="The weight of a long response is nothing, and nothing is learned. Of six tokens it "
        "filters noise, at temperature 1 and not greedily; a geometric mean is nearly SFT.",
        held=("long-responses-teach-nothing", "short-sequences-filter", "geometric-is-near-sft"),
        failed=("short-sequences-filter-greedy",),
        figures=("table5",),
    ),
    Finding(
        experiment="forgetting",
        says="DFT does not forget less. On another task it moves farther from the base than SFT, "
        "mostly in style, and so it does on the base's own samples, which teach nothing.",
        held=("copy-kl", "copy-kl-is-style", "not-a-win", "own-samples"),
        figures=("forgetting",),
    ),
    Finding(
        experiment="bandit-orbits",
        says="On one's own accepted samples SFT starts as the policy gradient. DFT counts the "
        "policy twice: it ends at one answer, farther from the start than RL.",
        held=("first-step", "dft-counts-twice", "collapse", "beyond-rl"),
        figures=("kl_return_orbits",),
    ),
    Finding(
        experiment="offline-rl",
        says="In what it says DFT lies between SFT and RL from a weak prior, and not from a "
        "strong one; in how it says it, it goes beyond both.",
        held=("between-in-content-weak", "not-between-in-style"),
        failed=("between-in-content-strong",),
        figures=("table2",),
    ),
    Finding(
        experiment="token-histogram",
        says="DFT polarises token probabilities, in its training text and in fresh text. Much of "
        "what it gives up are styles, which are no mistakes. SFT lifts its training text alone.",
        held=("dft-polarises-strong", "dft-gives-up-styles", "and-only-that"),
        figures=("fig2",),
    ),
    Finding(
        experiment="room-for-rl",
        says="RL levels what fine-tuning decided: what is less decided gains more, and DFT's lead "
        "over SFT does not survive it.",
        held=("sft-gains-more", "content-entropy"),
        failed=("dft-ends-above-strong", "dft-ends-above-middle"),
        figures=("room_for_rl",),
    ),
    Finding(
        experiment="diagnosis",
        says="Whether the gradients of different demonstrations agree ranks who will lead; "
        "statistics of p hardly do. It is wrong where the demonstrations err as the base does.",
        held=("held-out-shared", "held-out-p", "gradients-beat-p", "aligned-fails"),
        figures=("diagnosis", "matched_histograms"),
    ),
)

"""Every objective of the catalogue. A new one is a file in this folder and a name in the tuple."""

from dft_theory.objectives.asft import asft, asft_fixed_point, sft_kl
from dft_theory.objectives.base import Level, Limit, Objective, Style
from dft_theory.objectives.chord import chord_phi
from dft_theory.objectives.deft import deft_cayley, deft_cayley_fixed, deft_renyi
from dft_theory.objectives.dft import dft, dft_geometric, dft_sequence
from dft_theory.objectives.discriminative import discriminative_ft
from dft_theory.objectives.dpo import dpo
from dft_theory.objectives.eaft import eaft
from dft_theory.objectives.f_divergence import f_divergence
from dft_theory.objectives.focal import focal
from dft_theory.objectives.gates import floored, mixce, mixed, thresholded
from dft_theory.objectives.gem import gem
from dft_theory.objectives.grpo import group_advantages, grpo
from dft_theory.objectives.idft import idft
from dft_theory.objectives.iw_sft import iw_sft
from dft_theory.objectives.mixture_rules import (
    amft_step,
    hint_survival,
    meta_slope,
    prefix_advantages,
    top_entropy,
    without_conflict,
)
from dft_theory.objectives.mixtures import (
    MIXTURES,
    Mixture,
    Term,
    amft,
    cgl,
    chord_mu,
    hpt,
    mixtures,
    prefix_rft,
    srft,
    uft,
)
from dft_theory.objectives.one_token_rollout import one_token_rollout
from dft_theory.objectives.power import power
from dft_theory.objectives.proximal import minor_sft, psft
from dft_theory.objectives.reductions import (
    MicrobatchTokenMean,
    Reduction,
    SequenceMean,
    SumOver,
    TokenMean,
)
from dft_theory.objectives.reinforce import critical_tokens, dense_path, filtered_sft, reinforce
from dft_theory.objectives.reverse_kl import asft_k3, asft_reverse
from dft_theory.objectives.schedules import Schedule, anneal, blend, switch, warm_up, with_floor
from dft_theory.objectives.sed import sed, sed_masked
from dft_theory.objectives.sft import sft
from dft_theory.objectives.smoothing import entropy_regularised, label_smoothing
from dft_theory.objectives.srft import srft_weight
from dft_theory.objectives.talr import talr, talr_fixed, talr_normalised
from dft_theory.objectives.taylor import taylor
from dft_theory.registry import Registry

OBJECTIVES: tuple[Objective, ...] = (
    sft,
    dft,
    dft_sequence,
    dft_geometric,
    power(0.5),
    power(2.0),
    floored(0.1),
    thresholded(0.2, ">="),
    thresholded(0.2, "<="),
    mixed(0.5),
    mixce(0.25),
    power(-0.5),
    taylor(2),
    taylor(4),
    focal(2.0),
    chord_phi,
    sed(1.0),
    sed_masked(1.0),
    talr_fixed(0.8),
    talr,
    talr_normalised,
    deft_cayley_fixed(0.25),
    deft_cayley,
    deft_renyi,
    eaft(),
    srft_weight("paper"),
    srft_weight("code"),
    idft(),
    sft_kl(0.1),
    asft(0.05),
    asft_reverse(0.05),
    asft_k3(0.05),
    gem(0.7),
    label_smoothing(0.1),
    entropy_regularised(0.1),
    iw_sft("geometric-mean"),
    iw_sft("token", clamp=(0.2, 1.8)),
    iw_sft("sequence", clamp=None),
    psft(),
    minor_sft(0.1),
    f_divergence("kl"),
    f_divergence("hellinger"),
    f_divergence("js"),
    f_divergence("chi2"),
    one_token_rollout(),
    reinforce,
    filtered_sft,
    critical_tokens,
    dense_path,
    grpo(),
    dpo(0.1),
    discriminative_ft(1.0, negatives=3),
)

objectives: Registry[Objective] = Registry("objective", OBJECTIVES)

__all__ = [
    "MIXTURES",
    "OBJECTIVES",
    "Level",
    "Limit",
    "MicrobatchTokenMean",
    "Mixture",
    "Objective",
    "Reduction",
    "Schedule",
    "SequenceMean",
    "Style",
    "SumOver",
    "Term",
    "TokenMean",
    "amft",
    "amft_step",
    "anneal",
    "asft",
    "asft_fixed_point",
    "asft_k3",
    "asft_reverse",
    "blend",
    "cgl",
    "chord_mu",
    "chord_phi",
    "critical_tokens",
    "deft_cayley",
    "deft_cayley_fixed",
    "deft_renyi",
    "dense_path",
    "dft",
    "dft_geometric",
    "dft_sequence",
    "discriminative_ft",
    "dpo",
    "eaft",
    "entropy_regularised",
    "f_divergence",
    "filtered_sft",
    "floored",
    "focal",
    "gem",
    "group_advantages",
    "grpo",
    "hint_survival",
    "hpt",
    "idft",
    "iw_sft",
    "label_smoothing",
    "meta_slope",
    "minor_sft",
    "mixce",
    "mixed",
    "mixtures",
    "objectives",
    "one_token_rollout",
    "power",
    "prefix_advantages",
    "prefix_rft",
    "psft",
    "reinforce",
    "sed",
    "sed_masked",
    "sft",
    "sft_kl",
    "srft",
    "srft_weight",
    "switch",
    "talr",
    "talr_fixed",
    "talr_normalised",
    "taylor",
    "thresholded",
    "top_entropy",
    "uft",
    "warm_up",
    "with_floor",
    "without_conflict",
]

"""The explorer: one HTML page whose sliders move weight, reward, trajectory and end point.

The page computes for itself what `objectives.power` and `dynamics` compute here, in the script
`explorer.js`; a test sets the sliders in a browser and compares. `?p0=0.001&alpha=0.5&noise=0.2&
vocab=1024` behind its address opens it with other settings.
"""

from importlib import resources

from dft_theory import markdown
from dft_theory.pages import page

TITLE = "Explorer: what a weight does to one token"
# Name, symbol, what it is, least, most, step, start: positions of the slider, log10 p0 and log2 V.
SLIDERS = (
    ("p0", "p₀", "probability at the start", -6, -0.4, 0.1, -3),
    ("alpha", "α", "exponent of the weight", 0, 2, 0.05, 0.5),
    ("noise", "ε", "share of wrong labels", 0, 0.9, 0.01, 0.1),
    ("vocab", "V", "size of the vocabulary", 1, 17, 1, 10),
)
_STYLE = """
nav { display: block; padding-top: 8px; } nav > a { margin-right: 18px; }
.sliders { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 2px 22px;
  margin: 6px 0 0; }
.sliders label { display: block; font-size: .84rem; line-height: 1.35; white-space: nowrap; }
.sliders span { display: block; color: var(--soft); font-size: .78rem; }
.sliders output { font-weight: 600; }
.sliders input { width: 100%; margin: 2px 0; accent-color: var(--accent); height: 22px; }
.sliders input:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
#summary { margin: 2px 0 0; font-variant-numeric: tabular-nums; }
.keys { display: flex; gap: 6px 18px; flex-wrap: wrap; }
.key::before { content: ""; display: inline-block; width: 22px; border-top: 3px solid;
  vertical-align: middle; margin-right: 6px; }
.key.sft { color: var(--sft); } .key.dft { color: var(--dft); } .key.own { color: var(--own); }
:root { --sft: #0072b2; --dft: #d55e00; --own: #00855f; }
@media (prefers-color-scheme: dark) { :root { --sft: #5db3ea; --dft: #f58a3c; --own: #35c79b; } }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 8px 30px; }
.pair p:first-child { margin-top: 0; }
.picture > svg { display: block; width: 100%; height: auto; }
.picture text { font: 9.5px system-ui, "DejaVu Sans", sans-serif; fill: var(--soft); }
.mid { text-anchor: middle; } .end { text-anchor: end; }
.grid { stroke: var(--line); } .mark { stroke: var(--soft); stroke-dasharray: 2 3; }
.curve { fill: none; stroke-width: 1.6; } .curve.own { stroke-width: 2.8; }
path.sft { stroke: var(--sft); } path.dft { stroke: var(--dft); } path.own { stroke: var(--own); }
circle { stroke: var(--paper); } circle.sft { fill: var(--sft); } circle.dft { fill: var(--dft); }
circle.own { fill: var(--own); }
td, th { font-variant-numeric: tabular-nums; } section { scroll-margin-top: 150px; }
@media (max-width: 760px) { .pair { grid-template-columns: 1fr; }
  .sliders { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 18px; margin: 0; }
  nav > a { display: none; } }
@media print { nav { display: block; position: static; padding: 0; } nav > a { display: none; }
  .sliders input { display: none; } .sliders { grid-template-columns: repeat(4, 1fr); }
  .pair { grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); } h2 { margin-top: 1.2em; }
  section { break-inside: avoid; } }
"""

_KEYS = (
    '<p class="keys tally"><span class="key sft">SFT, α = 0</span>'
    '<span class="key own"><span><span class="own-name"></span>, your α</span></span>'
    '<span class="key dft">DFT, α = 1</span></p>'
    "<noscript><p class=failure>The sliders need JavaScript, which is off here.</p></noscript>"
)
_HEAD = r"""
A model gives the right next token the probability $p_0$ and shares the rest equally among the
other $V - 1$. It is trained on labels of which a share $\varepsilon$ is wrong, equally often each
wrong token, by gradient flow on its logits with the weight $w(p) = p^\alpha$ on each label. Move
the sliders (arrow keys work): everything below is computed in this page and follows.
"""
_WEIGHT = r"""
The loss of each label is multiplied by $w(p) = p^\alpha$, held fixed while differentiating. SFT
gives every token the weight 1, DFT its own probability.

On logarithmic scales a power is a straight line with slope $\alpha$: a token that is a thousand
times less likely gets $1000^\alpha$ times less weight.

Noise and vocabulary move nothing here. The weight sees $p$ alone, and cannot know whether a label
is unlikely because it is new or because it is wrong.
"""
_REWARD = r"""
Sampling from the model instead, the same update is a policy gradient with the reward
$w(p) / p = p^{\alpha - 1}$ for the label and 0 for every other token.

SFT rewards a label by $1 / p$, its importance weight: the rarer, the more. DFT rewards every label
by 1. Beyond $\alpha = 1$ rare labels are rewarded less than likely ones.
"""
_PATH = r"""
The log-odds $x = \log \frac{p}{1 - p}$ of the right token move at

$$\frac{\mathrm{d}x}{\mathrm{d}t} = \frac{V}{V - 1}\left[(1 - \varepsilon)\, p^\alpha (1 - p)
- \varepsilon\, p\, q^\alpha\right]$$

with $q = (1 - p) / (V - 1)$ for each other token. Dots mark $p = 1/2$. Without noise a rare token
takes SFT a time that grows like $\log(1 / p_0)$, and DFT one that grows like $1 / p_0$; between
$V = 2$ and a large vocabulary lies a factor of 2. With noise SFT comes to rest below 1, and may
never pass 1/2.
"""
_REST = r"""
The right token has a share $r_y = 1 - \varepsilon$ of the labels, each wrong one
$\varepsilon / (V - 1)$. For $\alpha < 1$ long training ends at the labels' distribution, sharpened:

$$p^\ast_v \propto r_v^{1 / (1 - \alpha)}$$

SFT learns the noise with the label: the diagonal. DFT learns the most frequent label and nothing
else, whatever the noise, until a wrong one is more frequent.

Beyond $\alpha = 1$ where it ends depends on where it starts: the line is for your $p_0$.
"""
_NUMBERS = """
Time is learning rate times steps. All of this is one softmax under gradient descent with small
steps. In a network tokens share parameters, and Adam removes the scale of the gradient: rare tokens
are still learned last, by other factors.
"""


def render() -> str:
    """The page. Raises: PageError where it would load something."""
    chapters = [
        ("w", "Weight", _pair("weight", "Weight of a token against its probability", _WEIGHT)),
        ("r", "Reward", _pair("reward", "Implied reward against the probability", _REWARD)),
        ("t", "Time", _pair("path", "Probability against time", _PATH)),
        ("end", "End", _pair("rest", "Probability in the end against label noise", _REST)),
        ("numbers", "Numbers", _numbers() + markdown.html(_NUMBERS)),
    ]
    head = markdown.html(_HEAD) + _KEYS
    return page(TITLE, head, chapters, style=_STYLE, bar=_bar(), script=script())


def script() -> str:
    """The program of the page."""
    return (resources.files("dft_theory") / "explorer.js").read_text(encoding="utf-8")


def _bar() -> str:
    sliders = "".join(
        f'<div><label for="{name}"><span>{words}</span> '
        f'{symbol} = <output for="{name}"></output></label>'
        f'<input type="range" id="{name}" min="{low}" max="{high}" step="{step}" value="{start}"'
        "></div>"
        for name, symbol, words, low, high, step, start in SLIDERS
    )
    return f"<div class=sliders>{sliders}</div><p id=summary role=status></p>"


def _pair(name: str, label: str, text: str) -> str:
    return (
        f'<div class=pair><div class=picture><svg id="{name}" viewBox="0 0 350 232" role="img" '
        f'aria-label="{label}; the numbers are in the table below"></svg></div>'
        f"<div>{markdown.html(text)}</div></div>"
    )


def _numbers() -> str:
    rows = {
        "weight": "weight at $p_0$",
        "reward": "implied reward at $p_0$",
        "half": "time to $p = 1/2$",
        "times": "times SFT's",
        "fixed": "probability in the end",
    }
    names = {"sft": "SFT", "own": "p^α", "dft": "DFT"}
    head = [
        f'<span class="key {who}"><span class="{who}-name">{name}</span></span>'
        for who, name in names.items()
    ]
    return markdown.table(
        ["", *head],
        [
            [markdown.inline(words), *(f'<span id="{who}-{key}"></span>' for who in names)]
            for key, words in rows.items()
        ],
    )

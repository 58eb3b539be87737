"use strict";
// One demonstrated token among V, the V - 1 others equally likely and equally often wrong labels:
// everything the page shows is computed by `compute`, drawn by `draw`, and nothing is fetched.
window.explorer = (() => {
  // --- numbers ----------------------------------------------------------------------------------

  const HALF = 0; // the log-odds of p = 1/2
  const probability = (x) => 1 / (1 + Math.exp(-x));

  // Gradient flow on labels that are wrong with chance e moves the target's log-odds x at
  // dx/dt = k [(1 - e) p^a (1 - p) - e p q^a], k = V / (V - 1), q = (1 - p) / (V - 1).
  function velocity(x, alpha, { noise, vocab }) {
    const p = probability(x), rest = probability(-x), q = rest / (vocab - 1);
    const pull = (1 - noise) * p ** alpha * rest - noise * p * q ** alpha;
    return (vocab / (vocab - 1)) * pull;
  }

  // Log-odds at which the flow from x0 ends: that of r^(1/(1-a)) normalised below a = 1, a vertex
  // from there on, where beyond 1 the side of the separatrix decides.
  function end(x0, alpha, { noise, vocab }) {
    const odds = Math.log(((1 - noise) * (vocab - 1)) / noise); // of right label to each wrong one
    if (alpha < 1) return odds / (1 - alpha) - Math.log(vocab - 1);
    if (alpha === 1) return odds === 0 ? x0 : odds > 0 ? Infinity : -Infinity;
    const separatrix = -odds / (alpha - 1) - Math.log(vocab - 1);
    return x0 === separatrix ? x0 : x0 > separatrix ? Infinity : -Infinity;
  }

  const NODES = [-0.906179845938664, -0.538469310105683, 0, 0.538469310105683, 0.906179845938664];
  const WEIGHTS = [
    0.236926885056189, 0.478628670499366, 0.568888888888889, 0.478628670499366, 0.236926885056189];

  // Log-odds x and times t on the way from x0 to x1: the integral of dx / velocity by Gauss's rule.
  // Where the flow comes to rest at `stop`, steps are even in the logarithm of the distance to it.
  function path(x0, x1, stop, alpha, setting, steps = 240) {
    const near = Math.abs(stop) < Infinity, all = near ? Math.log((stop - x0) / (stop - x1)) : x1 - x0;
    const at = (s) => (near ? stop - (stop - x0) * Math.exp(-s) : x0 + s);
    const rate = (s) => (near ? stop - at(s) : 1) / velocity(at(s), alpha, setting);
    const x = [x0], t = [0], half = all / steps / 2;
    for (let i = 0; i < steps; i++) {
      let area = 0;
      for (let j = 0; j < 5; j++) area += WEIGHTS[j] * rate(half * (2 * i + 1 + NODES[j]));
      x.push(at(half * (2 * i + 2)));
      t.push(t[i] + half * area);
    }
    return { x, t };
  }

  function method(alpha, setting) {
    const x0 = Math.log(setting.p0 / (1 - setting.p0)), stop = end(x0, alpha, setting);
    const near = Math.abs(stop) < Infinity ? stop - (stop - x0) * 1e-4 : stop;
    const last = Math.min(Math.max(near, x0 - 8), 12), still = stop === x0;
    const run = still ? { x: [x0], t: [0] } : path(x0, last, stop, alpha, setting);
    // Beyond alpha = 1 where it ends depends on the start, and no point is the answer for all.
    const known = alpha < 1 || (alpha === 1 && !still);
    return {
      alpha,
      weight: setting.p0 ** alpha,
      reward: setting.p0 ** alpha / setting.p0,
      half: stop > HALF ? path(x0, HALF, stop, alpha, setting).t.at(-1) : Infinity,
      fixed: known ? probability(stop) : null,
      ends: probability(stop),
      p: run.x.map(probability),
      t: run.t,
    };
  }

  // What the labels' noise makes of the end point, for the last picture.
  function learned(alpha, vocab, p0) {
    const x0 = Math.log(p0 / (1 - p0));
    const noise = Array.from({ length: 191 }, (_, i) => 0.005 * i);
    return { noise, p: noise.map((e) => probability(end(x0, alpha, { noise: e, vocab }))) };
  }

  const compute = (setting) => ({
    setting,
    sft: method(0, setting),
    own: method(setting.alpha, setting),
    dft: method(1, setting),
  });

  // --- words ------------------------------------------------------------------------------------

  const raised = (n) => String(n).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻");

  function show(x) {
    if (x === null) return "the start decides";
    if (x === Infinity) return "never";
    if (x === 0 || (x >= 1e-3 && x < 1e6)) {
      const digits = x >= 100 ? 0 : x >= 10 ? 1 : Math.max(0, 2 - Math.floor(Math.log10(x || 1)));
      const text = x.toFixed(digits);
      return digits ? String(Number(text)) : Number(text).toLocaleString("en");
    }
    const power = Math.floor(Math.log10(x) + 1e-12);
    const times = Number((x / 10 ** power).toFixed(1));
    return `${times === 1 ? "" : `${times} × `}10${raised(power)}`;
  }

  // A probability near 1 is told by what is missing.
  const chance = (p) => (p !== null && p > 0.9995 && p < 1 ? `1 − ${show(1 - p)}` : show(p));

  // --- pictures ---------------------------------------------------------------------------------

  const LEFT = 46, RIGHT = 332, TOP = 12, BASE = 196;
  const LOG = Math.log10, SAME = (v) => v;
  const decades = (low, high, step) =>
    Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => 10 ** (low + i * step));

  // A picture: `across` and `up` are [map, low, high, ticks, label] in the mapped units.
  function picture(id, across, up, curves, marks, guides = []) {
    const [fx, x0, x1, ticksX, labelX] = across, [fy, y0, y1, ticksY, labelY] = up;
    const X = (v) => LEFT + ((RIGHT - LEFT) * (fx(v) - x0)) / (x1 - x0);
    const Y = (v) => BASE - ((BASE - TOP) * (fy(v) - y0)) / (y1 - y0);
    const inside = (v) => v > -1e4 && v < 1e4; // an SVG coordinate that is a number
    const tick = (v) => (fx === LOG || v < 1 ? show(v) : v);
    let s = "";
    for (const v of ticksX)
      s += `<line class=grid x1=${X(v)} y1=${TOP} x2=${X(v)} y2=${BASE} />` +
        `<text class=mid x=${X(v)} y=${BASE + 14}>${tick(v)}</text>`;
    for (const v of ticksY)
      s += `<line class=grid x1=${LEFT} y1=${Y(v)} x2=${RIGHT} y2=${Y(v)} />` +
        `<text class=end x=${LEFT - 5} y=${Y(v) + 3}>${show(v)}</text>`;
    for (const [x, y, text] of guides)
      s += x === null
        ? `<line class=mark x1=${LEFT} y1=${Y(y)} x2=${RIGHT} y2=${Y(y)} />` +
          `<text class=end x=${RIGHT - 4} y=${Y(y) - 4}>${text}</text>`
        : `<line class=mark x1=${X(x)} y1=${TOP} x2=${X(x)} y2=${BASE} />` +
          `<text x=${X(x) + 4} y=${BASE - 5}>${text}</text>`;
    const box = [LEFT, TOP, RIGHT - LEFT, BASE - TOP];
    s += `<svg x=${LEFT} y=${TOP} width=${box[2]} height=${box[3]} viewBox="${box.join(" ")}">`;
    for (const [who, xs, ys] of curves) {
      const points = xs.map((v, i) => [X(v), Y(ys[i])]).filter(([a, b]) => inside(a) && inside(b));
      const track = points.map(([a, b]) => `${a.toFixed(2)} ${b.toFixed(2)}`).join("L");
      s += `<path class="curve ${who}" d="M${track}"/>`;
    }
    s += "</svg>";
    for (const [who, x, y] of marks)
      if (X(x) >= LEFT - 1 && X(x) <= RIGHT + 1 && Y(y) >= TOP - 1 && Y(y) <= BASE + 1)
        s += `<circle class="${who}" cx=${X(x).toFixed(2)} cy=${Y(y).toFixed(2)} r=4 />`;
    s += `<text class=mid x=${(LEFT + RIGHT) / 2} y=${BASE + 29}>${labelX}</text>` +
      `<text x=0 y=8>${labelY}</text>`;
    document.getElementById(id).innerHTML = s;
  }

  function draw(found) {
    const { setting } = found, all = [["sft", found.sft], ["dft", found.dft], ["own", found.own]];
    const grid = Array.from({ length: 121 }, (_, i) => 10 ** (-6 + i / 20));
    const axis = [LOG, -6, 0, decades(-6, 0, 2), "probability p of the token"];
    const curves = (value) => all.map(([who, m]) => [who, grid, grid.map((p) => value(p, m.alpha))]);
    picture("weight", axis, [LOG, -6.2, 0.4, decades(-6, 0, 2), "weight w(p)"],
      curves((p, a) => p ** a), all.map(([who, m]) => [who, setting.p0, m.weight]),
      [[setting.p0, null, "p₀"]]);
    picture("reward", axis, [LOG, -3.3, 6.3, decades(-2, 6, 2), "implied reward w(p) / p"],
      curves((p, a) => p ** a / p), all.map(([who, m]) => [who, setting.p0, m.reward]),
      [[setting.p0, null, "p₀"]]);

    // Times span what the three need; the curve begins where the first of them has begun to move.
    const ends = all.map(([, m]) => (m.half < Infinity ? m.half : m.t.at(-1))).filter((t) => t > 0);
    const low = Math.floor(LOG(Math.min(...ends))) - 1, high = Math.ceil(LOG(Math.max(...ends)) + 0.5);
    const step = Math.max(1, Math.ceil((high - low) / 6));
    const runs = all.map(([who, m]) =>
      [who, [10 ** low, ...m.t.slice(1), 10 ** high], [m.p[0], ...m.p.slice(1), m.p.at(-1)]]);
    picture("path", [LOG, low, high, decades(low, high, step), "time t: learning rate × steps"],
      [SAME, 0, 1.02, [0, 0.25, 0.5, 0.75, 1], "probability p(t) of the token"], runs,
      all.map(([who, m]) => [who, m.half, 0.5]), [[null, 0.5, "p = 1/2"]]);
    picture("rest", [SAME, 0, 0.95, [0, 0.2, 0.4, 0.6, 0.8], "label noise ε"],
      [SAME, 0, 1.02, [0, 0.25, 0.5, 0.75, 1], "p of the right token in the end"],
      all.map(([who, m]) => {
        const l = learned(m.alpha, setting.vocab, setting.p0);
        return [who, l.noise, l.p];
      }), all.map(([who, m]) => [who, setting.noise, m.ends]), [[setting.noise, null, "ε"]]);

    const say = (id, text) => { document.getElementById(id).textContent = text; };
    const times = (m) => show(m.half / found.sft.half);
    for (const [who, m] of all) {
      say(`${who}-weight`, show(m.weight));
      say(`${who}-reward`, show(m.reward));
      say(`${who}-half`, show(m.half));
      say(`${who}-times`, m.half < Infinity && found.sft.half < Infinity ? times(m) : "–");
      say(`${who}-fixed`, chance(m.fixed));
    }
    const own = `p<sup>${setting.alpha}</sup>`;
    for (const name of document.querySelectorAll(".own-name")) name.innerHTML = own;
    document.getElementById("summary").innerHTML = `Time to p = 1/2: SFT ${show(found.sft.half)} · ` +
      `${own} ${show(found.own.half)} · DFT ${show(found.dft.half)}`;
  }

  // --- sliders ----------------------------------------------------------------------------------

  // What a slider's position stands for, the position of a value, and the value in words.
  const SLIDERS = {
    p0: [(v) => 10 ** v, LOG, show],
    alpha: [SAME, SAME, (a) => String(a) + ({ 0: " (SFT)", 1: " (DFT)" }[a] ?? "")],
    noise: [SAME, SAME, (e) => `${Math.round(100 * e)} %`],
    vocab: [(v) => 2 ** v, Math.log2, (n) => n.toLocaleString("en")],
  };

  function update() {
    const setting = {};
    for (const [name, [value, , words]] of Object.entries(SLIDERS)) {
      const slider = document.getElementById(name);
      setting[name] = value(Number(slider.value));
      const text = words(setting[name]);
      slider.setAttribute("aria-valuetext", text);
      document.querySelector(`output[for=${name}]`).textContent = text;
    }
    explorer.shown = compute(setting);
    draw(explorer.shown);
  }

  function start() {
    const asked = new URLSearchParams(location.search);
    for (const [name, [, position]] of Object.entries(SLIDERS)) {
      const slider = document.getElementById(name), wanted = position(Number(asked.get(name)));
      if (asked.has(name) && Number.isFinite(wanted)) slider.value = wanted;
      slider.addEventListener("input", update);
    }
    update();
  }

  return { compute, start, shown: null };
})();
explorer.start();

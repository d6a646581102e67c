"use strict";
(() => {
  const source = document.getElementById("viewer-data");
  if (!source) return;
  const { runs, videos, pairs } = JSON.parse(source.textContent);
  const color = (run) => `var(--series-${(run % 8) + 1})`;
  const SIDES = ["A", "B"];
  const VERDICTS = { right: "right", wrong: "wrong", failed: "failed", tie: "people: tie", unlabelled: "no label" };
  const SOURCES = { video: 5, prompt: 8, thought: 4, query: 7 };  // and the numbers of their colours
  const attentive = runs.map((_, number) => number).filter((number) =>
    pairs.some((pair) => pair.calls.some((call) => call.run === number && call.sides.some((side) => side.attention))));
  const state = { kind: "all", run: "", words: "", place: 0, heat: String(attentive[0] ?? "") };
  let shown = [];
  let timer = 0;

  // Text is only ever inserted as a text node, so that markup in a prompt or a thought is not parsed as HTML.
  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name.startsWith("--")) element.style.setProperty(name, value);
      else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child != null && child !== false));
    return element;
  }

  const fixed = (value, digits = 2) => (value == null ? "none" : value.toFixed(digits).replace("-", "−"));
  const named = (label) => (label == null ? "gave no label" : label > 0 ? "prefer A" : label < 0 ? "prefer B" : "call it a tie");

  // Which pairs, in which order

  const callsOf = (pair) => pair.calls.filter((call) => state.run === "" || call.run === Number(state.run));
  const has = (pair, verdict) => callsOf(pair).some((call) => call.verdict === verdict);
  const verdictOf = (pair) =>
    ["wrong", "failed"].find((verdict) => has(pair, verdict)) ?? callsOf(pair)[0].verdict;
  const wrongness = (pair) =>
    Math.max(...callsOf(pair).map((call) => call.wrongness ?? -Infinity));

  function textOf(pair) {
    const thoughts = pair.calls.flatMap((call) => call.sides.flatMap((side) => [side.thought, side.error]));
    const names = pair.sides.flatMap((side) => [side.generator, videos[side.video].name, videos[side.video].error]);
    return [pair.id, pair.prompt, pair.benchmark, ...names, ...thoughts].filter(Boolean).join("\n").toLowerCase();
  }
  const texts = new Map(pairs.map((pair) => [pair, textOf(pair)]));

  const KINDS = {
    all: () => true,
    errors: (pair) => has(pair, "wrong"),
    failed: (pair) => has(pair, "failed"),
  };

  function matching(kind) {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    return pairs.filter(
      (pair) => callsOf(pair).length && KINDS[kind](pair) && words.every((word) => texts.get(pair).includes(word)),
    );
  }

  // One pair

  function scoreList(scores, annotated) {
    if (!scores) return null;
    return h("ul", { class: "scores", "aria-label": "dimension scores" },
      Object.entries(scores).map(([name, value]) => {
        if (!annotated) return h("li", {}, h("b", {}, String(value)), name);
        const right = String(annotated[name]) === String(value);
        const note = right ? "✓" : `✗ ${annotated[name]}`;
        const said = right ? `${name} ${value}, as annotated` : `${name} ${value}, annotated ${annotated[name]}`;
        return h("li", { class: right ? "right" : "wrong", title: said },
          h("span", { class: "away" }, said),
          h("span", { "aria-hidden": "true" }, h("b", {}, `${value} ${note}`), name));
      }));
  }

  function attentionOf({ shares }) {
    const said = Object.entries(shares).map(([source, share]) => `${source} ${(100 * share).toFixed(1)} %`);
    return h("div", { class: "attention" },
      h("span", { class: "shares", role: "img", "aria-label": `attention of the query token: ${said.join(", ")}` },
        Object.entries(shares).map(([source, share]) => {
          const part = h("i", { "--color": `var(--series-${SOURCES[source]})` });
          part.style.width = `${100 * share}%`;
          return part;
        })),
      h("span", { class: "key" }, "attends to ", Object.keys(shares).map((source, i) =>
        h("span", {}, h("i", { "--color": `var(--series-${SOURCES[source]})`, "aria-hidden": "true" }), said[i]))));
  }

  function thoughtOf(text) {
    const parts = /^<think>([^]*?)<\/think>([^]*)$/.exec(text);
    return parts ? [parts[1].trim(), h("code", {}, parts[2].trim())] : [text];
  }

  function scoreOf(side, name, annotated) {
    if (side.error) return h("div", {}, h("p", { class: "reason" }, `${name}: ${side.error}`));
    const spread = side.reward_std == null ? "" : ` ± ${fixed(side.reward_std)} over ${side.num_thoughts} thoughts`;
    const details = [
      side.overall_score == null ? "" : `overall ${side.overall_score}`,
      side.num_thought_tokens ? `${side.num_thought_tokens} tokens` : "no thought",
      side.p_tie == null ? "" : `P(tie) ${fixed(side.p_tie)}`,
      side.truncated ? "cut off at the length limit" : "",
    ].filter(Boolean).join(", ");
    return h("div", {},
      h("p", { class: "reward" }, `${side.measure ?? name} `, h("b", {}, fixed(side.reward)), spread ? `${spread}; the first: ` : "", details),
      side.attention && attentionOf(side.attention),
      scoreList(side.dimension_scores, annotated),
      side.thought && h("div", { class: "thought", tabindex: "0", role: "region", "aria-label": `thought about ${name}` }, thoughtOf(side.thought)));
  }

  function balance(call, pair) {
    if (call.margin == null) return null;
    const width = Math.min(50, 25 * Math.abs(call.wrongness ?? 1));
    const start = call.margin > 0 ? 50 - width : 50;
    const bar = h("i");
    bar.style.left = `${start}%`;
    bar.style.width = `${width}%`;
    return h("span", { class: "sides" }, "A",
      h("span", { class: "balance", "--color": color(call.run), role: "img", "aria-label": `margin ${fixed(call.margin)}, towards ${call.margin > 0 ? "A" : "B"}` }, bar), "B");
  }

  function callOf(call, pair) {
    const says = call.margin == null ? "no reward" : call.margin > 0 ? "calls A better" : call.margin < 0 ? "calls B better" : "calls neither better";
    return h("div", { class: "call" },
      h("div", { class: "call-top" },
        h("span", { class: "mark", "--color": color(call.run), "aria-hidden": "true" }),
        h("span", { class: "name" }, runs[call.run].name),
        h("span", { class: `chip ${call.verdict}` }, VERDICTS[call.verdict]),
        h("span", { class: "gap" }, call.margin == null ? says : `${says} by ${fixed(Math.abs(call.margin))}`),
        balance(call, pair)),
      h("div", { class: "two" }, call.sides.map((side, i) => scoreOf(side, SIDES[i], pair.sides[i].annotated))));
  }

  function annotation(side) {
    const parts = [];
    if (side.annotated) parts.push("annotated " + Object.entries(side.annotated).map(([name, value]) => `${name} ${value}`).join(", "));
    const opinions = Object.entries(side.mos).map(([name, value]) => `${name} ${fixed(value)}`);
    if (opinions.length) parts.push(`opinion scores ${opinions.join(", ")}`);
    return parts.length ? h("p", { class: "known" }, parts.join("; ")) : null;
  }

  function sideOf(side, i, pair) {
    const video = videos[side.video];
    const preferred = pair.label === (i === 0 ? 1 : -1);
    const top = h("div", { class: "side-top" }, h("b", {}, SIDES[i]), side.generator || video.name,
      preferred && h("span", { class: "chip right" }, "people prefer this"));
    if (!video.frames) return { element: h("div", {}, top, h("div", { class: "stage" }, h("p", {}, `Cannot be shown: ${video.error}`)), annotation(side)), show() {}, num: 0 };
    const call = pair.calls.find((call) => String(call.run) === state.heat);
    const maps = call?.sides[i].attention?.maps ?? [];
    const image = h("img", { decoding: "sync" });
    const heat = maps.length > 0 && h("img", { class: "heat", alt: "" });
    const buttons = video.frames.map((uri, frame) =>
      h("button", { type: "button", "aria-label": `show frame ${frame + 1} of video ${SIDES[i]}`, onclick: () => { stop(); show(frame); } },
        h("img", { src: uri, alt: "" }), heat && h("img", { class: "heat", src: maps[frame], alt: "" })));
    function show(frame) {
      image.src = video.frames[frame];
      if (heat) heat.src = maps[frame];
      image.alt = `Video ${SIDES[i]}, frame ${frame + 1} of ${video.frames.length}, at ${video.times[frame]} s`;
      buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === frame)));
    }
    show(0);
    const element = h("div", {}, top, h("div", { class: "stage" }, image, heat), h("div", { class: "strip" }, buttons), annotation(side));
    return { element, show, num: video.frames.length };
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    const button = document.getElementById("play");
    if (button) button.textContent = "Play";
  }

  function play(sides) {
    if (timer) return stop();
    let frame = 0;
    document.getElementById("play").textContent = "Stop";
    timer = setInterval(() => {
      frame += 1;
      sides.forEach((side) => side.num && side.show(frame % side.num));
    }, 350);
  }

  function pairOf(pair) {
    const sides = pair.sides.map((side, i) => sideOf(side, i, pair));
    const others = Object.entries(pair.preference).filter(([name]) => name !== pair.dimension);
    const last = state.place === shown.length - 1;
    return h("article", { class: "pair", id: "pair", tabindex: "-1", "aria-label": `pair ${pair.id}` },
      h("div", { class: "pair-top" },
        h("span", {}, `People ${named(pair.label)} (${pair.dimension})`),
        others.length > 0 && h("span", {}, others.map(([name, label]) => `${name}: ${named(label)}`).join(", ")),
        h("span", {}, `${pair.benchmark}, pair ${pair.id}`),
        h("span", { class: "steps" },
          sides.some((side) => side.num) && h("button", { type: "button", id: "play", onclick: () => play(sides) }, "Play"),
          h("button", { type: "button", id: "previous", disabled: state.place === 0, onclick: () => step(-1) }, "Previous"),
          h("span", { class: "count", id: "count" }, `${state.place + 1} / ${shown.length}`),
          h("button", { type: "button", id: "next", disabled: last, onclick: () => step(1) }, "Next"))),
      h("p", { class: "prompt" }, pair.prompt),
      h("div", { class: "two" }, sides.map((side) => side.element)),
      callsOf(pair).map((call) => callOf(call, pair)));
  }

  // The viewer

  const MEANINGS = { right: "called right", wrong: "called wrong", failed: "failed", tie: "people call it a tie", unlabelled: "no label" };

  function key() {
    const found = new Set(pairs.flatMap((pair) => pair.calls.map((call) => call.verdict)));
    const annotated = pairs.some((pair) => pair.sides.some((side) => side.annotated));
    return h("p", { class: "key" },
      Object.keys(MEANINGS).filter((verdict) => found.has(verdict)).map((verdict) =>
        h("span", {}, h("i", { class: verdict, "aria-hidden": "true" }), MEANINGS[verdict], runs.length > 1 && verdict === "wrong" && " by a run")),
      annotated && h("span", {}, "dimension scores: ✓ as annotated, ✗ and what is annotated"),
      attentive.length > 0 && h("span", {}, h("i", { class: "hot", "aria-hidden": "true" }), "heat map: what the query token attends to, from the 2nd to the 98th percentile of the video"),
      h("span", {}, "bar: the margin, towards the video with the larger reward; full at twice the run's root mean square margin"));
  }

  const radios = h("fieldset", {}, h("legend", {}, "Which pairs"));
  const map = h("div", { class: "map", role: "group", "aria-label": "pairs" });
  const stage = h("div", { "aria-live": "polite" });

  function choose(change) {
    Object.assign(state, { place: 0 }, change);
    refresh();
    remember(true);
  }

  function refresh() {
    shown = matching(state.kind).sort((one, other) => wrongness(other) - wrongness(one));
    state.place = Math.max(0, Math.min(state.place, shown.length - 1));
    radios.querySelectorAll("label").forEach((label) => {
      label.querySelector("span").textContent = ` ${matching(label.dataset.kind).length}`;
      label.querySelector("input").checked = label.dataset.kind === state.kind;
    });
    map.replaceChildren(...shown.map((pair, place) => {
      const verdict = verdictOf(pair);
      return h("button", { type: "button", class: verdict, "aria-label": `pair ${pair.id}, ${VERDICTS[verdict]}`, title: pair.prompt.slice(0, 80), onclick: () => go(place) });
    }));
    draw();
  }

  function draw() {
    stop();
    stage.replaceChildren(shown.length ? pairOf(shown[state.place]) : h("p", { class: "nothing" }, "No pair matches."));
    [...map.children].forEach((button, place) => button.setAttribute("aria-current", String(place === state.place)));
  }

  function go(place) {
    if (place < 0 || place >= shown.length || place === state.place) return;
    state.place = place;
    draw();
    remember(false);
  }

  function step(by) {
    const held = document.activeElement?.id;
    go(state.place + by);
    const button = held && document.getElementById(held);
    if (button && !button.disabled) button.focus();
  }

  // The address holds the pair, so that back and forward move between pairs, and a link opens its pair.
  function remember(replace) {
    if (!shown.length) return;
    const pair = pairs.indexOf(shown[state.place]);
    if (replace) history.replaceState({ pair }, "", `#pair=${pair}`);
    else history.pushState({ pair }, "", `#pair=${pair}`);
  }

  function recall(number) {
    const pair = pairs[number];
    if (!pair) return;
    if (!shown.includes(pair)) {
      Object.assign(state, { kind: "all", run: "", words: "" });
      search.value = "";
      if (picker) picker.value = "";
      refresh();
    }
    state.place = shown.indexOf(pair);
    draw();
  }

  for (const [kind, name] of [["errors", "Errors"], ["all", "All"], ["failed", "Failed"]]) {
    radios.append(h("label", { class: "choice", "data-kind": kind },
      h("input", { type: "radio", name: "kind", value: kind, onchange: () => choose({ kind }) }), name, h("span")));
  }
  const picker = runs.length > 1 && h("select", { id: "run", "aria-label": "Which run", onchange: (event) => choose({ run: event.target.value }) },
    h("option", { value: "" }, "all runs"), runs.map((run, number) => h("option", { value: number }, run.name)));
  const heater = attentive.length > 0 && h("select", { id: "heat", "aria-label": "Heat map", onchange: (event) => { state.heat = event.target.value; draw(); } },
    h("option", { value: "" }, "no heat map"), attentive.map((run) => h("option", { value: run, selected: String(run) === state.heat }, `heat map: ${runs[run].name}`)));
  const search = h("input", { type: "search", id: "search", placeholder: "Search prompts and thoughts", "aria-label": "Search prompts and thoughts", oninput: (event) => choose({ words: event.target.value }) });

  document.getElementById("viewer").append(h("div", { class: "bar" }, radios, picker, heater, search), map, key(), stage);
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, .thought, .scroll, pre")) return;
    const by = { ArrowRight: 1, j: 1, ArrowLeft: -1, k: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });
  window.addEventListener("popstate", (event) => recall(event.state?.pair));
  refresh();
  const linked = /^#pair=(\d+)$/.exec(location.hash);
  if (linked) {
    recall(Number(linked[1]));
    document.getElementById("pairs").scrollIntoView();
  } else if (shown.length) {
    history.replaceState({ pair: pairs.indexOf(shown[0]) }, "");
  }
})();

"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const NUM_FRAMES = 6;
  const entries = [];  // of {file, url, card, result, record}
  let scoring = false;

  // Text is only ever inserted as a text node, so that markup in a name, a prompt or a thought is not parsed as HTML.
  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child != null && child !== false));
    return element;
  }

  const fixed = (value) => value.toFixed(3).replace("-", "−");
  const headers = () => (at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {});

  // Videos

  function add(files) {
    for (const file of files) {
      const entry = { file, url: URL.createObjectURL(file), record: null };
      const strip = h("div", { class: "strip", "aria-hidden": "true" });
      entry.chip = h("span", { class: "chip", hidden: true }, "best");
      entry.result = h("div", { class: "result" });
      entry.card = h("article", {},
        h("div", { class: "top" }, h("h2", {}, file.name), entry.chip,
          h("button", { type: "button", "aria-label": `Remove ${file.name}`, onclick: () => remove(entry) }, "✕")),
        h("video", { src: entry.url, controls: true, muted: true, loop: true, playsinline: true, preload: "metadata" }),
        strip, entry.result);
      entries.push(entry);
      at("videos").append(entry.card);
      draw(entry.url, strip);
    }
    refresh();
  }

  function remove(entry) {
    entries.splice(entries.indexOf(entry), 1);
    entry.card.remove();
    URL.revokeObjectURL(entry.url);
    compare();
    refresh();
  }

  async function draw(url, strip) {
    const video = h("video", { src: url, muted: true, preload: "auto" });
    const next = (name) => new Promise((resolve, reject) => {
      video.addEventListener(name, resolve, { once: true });
      video.addEventListener("error", reject, { once: true });
    });
    try {
      await next("loadeddata");
      for (let index = 0; index < NUM_FRAMES; index += 1) {
        const seeked = next("seeked");
        video.currentTime = (video.duration * (index + 0.5)) / NUM_FRAMES;
        await seeked;
        const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
        canvas.getContext("2d").drawImage(video, 0, 0);
        strip.append(canvas);
      }
    } catch {
      strip.replaceWith(h("p", { class: "note" }, "This browser cannot play the file; the model may read it all the same."));
    }
  }

  function refresh() {
    at("score").disabled = scoring || !entries.length || !at("prompt").value.trim();
    at("clear").hidden = !entries.length;
  }

  // Scores

  async function ask(entry) {
    const form = new FormData();
    form.append("prompt", at("prompt").value);
    form.append("num_thoughts", at("thoughts").value);
    if (at("model").value) form.append("model", at("model").value);
    form.append("video", entry.file);
    try {
      const answer = await fetch("score", { method: "POST", body: form, headers: headers() });
      const record = await answer.json();
      if (answer.status === 401) at("key-field").hidden = false;
      return answer.ok ? record : { reward: null, error: record.error };
    } catch {
      return { reward: null, error: "the server does not answer" };
    }
  }

  async function score(event) {
    event.preventDefault();
    scoring = true;
    refresh();
    at("verdict").textContent = "";
    for (const entry of entries) {
      entry.record = null;
      entry.result.replaceChildren(h("p", { class: "note" }, "Waiting …"));
    }
    compare();
    for (const entry of [...entries]) {
      entry.result.replaceChildren(h("p", { class: "note" }, "The model is thinking …"));
      entry.record = await ask(entry);
      show(entry);
    }
    scoring = false;
    compare();
    refresh();
  }

  function show({ result, record }) {
    if (record.error) {
      result.replaceChildren(h("p", { class: "error" }, record.error));
      return;
    }
    const notes = [
      record.reward_std != null && `± ${fixed(record.reward_std)} over ${record.each.length} thoughts`,
      record.normalised_reward != null && `${fixed(record.normalised_reward)} normalised`,
      record.overall_score != null && `overall score ${record.overall_score}`,
    ].filter(Boolean);
    const scores = Object.entries(record.dimension_scores ?? {});
    result.replaceChildren(
      h("p", { class: "reward" }, h("b", {}, fixed(record.reward)), ["reward", ...notes].join(", ")),
      ...(scores.length ? [h("ul", { class: "scores", "aria-label": "Dimension scores, 0 to 2" },
        scores.map(([name, value]) => h("li", {}, h("b", {}, String(value)), name)))] : []),
      h("p", { class: "thought", tabindex: "0" },
        record.thought || "scored without a thought", record.truncated && " … (cut off at the length limit)"));
  }

  function compare() {
    const scored = entries.filter(({ record }) => record && record.reward != null);
    scored.sort((one, other) => other.record.reward - one.record.reward);
    const [best, second] = scored;
    const decided = !scoring && second && best.record.reward > second.record.reward;
    for (const entry of entries) {
      entry.card.classList.toggle("best", Boolean(decided && entry === best));
      entry.chip.hidden = !(decided && entry === best);
    }
    if (!scoring && second) {
      at("verdict").textContent = decided
        ? `${best.file.name} is better, by ${fixed(best.record.reward - second.record.reward)}.`
        : "No video is better than the other.";
    } else if (!scoring) at("verdict").textContent = "";
  }

  // What the page starts with

  async function listModels() {
    const answer = await fetch("v1/models", { headers: headers() });
    at("key-field").hidden = answer.status !== 401 && !at("key").value;
    if (!answer.ok) return;
    const names = (await answer.json()).data.map(({ id }) => id);
    at("model").replaceChildren(...names.map((name) => h("option", {}, name)));
    at("model-field").hidden = names.length < 2;
  }

  const drop = at("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") add(event.dataTransfer.files);
    });
  }
  at("files").addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = "";
  });
  at("prompt").addEventListener("input", refresh);
  at("key").addEventListener("change", listModels);
  at("clear").addEventListener("click", () => [...entries].forEach(remove));
  at("form").addEventListener("submit", score);
  listModels().catch(() => {});
})();

"use strict";
// The trajectory viewer. Reads the JSON in #data (see sample.py) and writes text nodes only: what a model said is never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = new Map(data.trajectories.map((each) => [each.id, each]));
  const flipped = new Map();
  for (const flip of data.flips) {
    for (const id of [flip.champion, flip.challenger]) flipped.set(id, [...flipped.get(id) ?? [], flip]);
  }
  const state = { first: null, second: null, tokens: false };
  const hint = document.getElementById("hint");

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  // Filters -------------------------------------------------------------------------------------------------------

  const PURPOSES = { collect: "training data", evaluate: "held-out evaluation", demonstrate: "demonstration" };

  function choice(label, options) {
    const select = make("select", { onchange: refill }, make("option", { value: "" }, "all"),
      ...options.map(([value, text]) => make("option", { value }, text)));
    return [select, make("label", {}, label, select)];
  }
  const distinct = (name) => [...new Set(data.trajectories.map((each) => String(each[name])))]
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true })).map((value) => [value, value]);

  const search = make("input", { type: "search", placeholder: "question, what was said, answer, id", oninput: refill });
  const [iteration, iterationLabel] = choice("Iteration", distinct("iteration"));
  const [purpose, purposeLabel] = choice("Purpose", Object.entries(PURPOSES));
  const [actor, actorLabel] = choice("Policy", distinct("actor"));
  const [success, successLabel] = choice("Outcome", [["true", "solved"], ["false", "not solved"]]);
  const [family, familyLabel] = choice("Family", distinct("family"));
  const [flip, flipLabel] = choice("Flip", [["gained", "gained"], ["lost", "lost"]]);
  const errors = make("input", { type: "checkbox", onchange: refill });
  const count = make("p", { class: "count", "aria-live": "polite" });
  const list = make("ul", { class: "list", "aria-label": "Trajectories", onkeydown: walk });
  const panes = make("div", { class: "panes" });

  const words = new Map(data.trajectories.map((each) => [each.id,
    [each.id, each.task, each.question, each.answer ?? "", ...each.turns.map((turn) => turn.text)].join("\n").toLowerCase()]));

  function matches(each) {
    return (!iteration.value || String(each.iteration) === iteration.value)
      && (!purpose.value || each.purpose === purpose.value)
      && (!actor.value || each.actor === actor.value)
      && (!success.value || String(each.solved) === success.value)
      && (!family.value || each.family === family.value)
      && (!flip.value || flipped.get(each.id)?.some((one) => one.flip === flip.value))
      && (!errors.checked || each.tool_errors > 0)
      && search.value.toLowerCase().split(/\s+/).every((word) => words.get(each.id).includes(word));
  }

  function refill() {
    const found = data.trajectories.filter(matches);
    count.textContent = `${found.length} of the ${data.trajectories.length} trajectories in this page`;
    list.replaceChildren(...found.map((each) => make("li", {}, make("button", {
      type: "button", "data-id": each.id, "aria-current": each.id === state.first ? "true" : "false",
      onclick: () => show(each.id, null),
    },
    make("span", { class: "question" }, each.question),
    make("span", { class: "line" }, outcome(each), ` iteration ${each.iteration}, ${each.actor}`,
      flipped.has(each.id) ? ", flip" : "")))));
    if (!found.length) list.append(make("li", { class: "empty" }, "No trajectory matches."));
  }

  function walk(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const buttons = [...list.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (next) {
      next.focus();
      next.click();
      event.preventDefault();
    }
  }

  // One trajectory ------------------------------------------------------------------------------------------------

  function outcome(each) {
    return make("span", { class: each.solved ? "badge good" : "badge bad" }, each.solved ? "solved" : "not solved");
  }

  function facts(pairs) {
    return make("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null)
      .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  const STATUS = { answered: "answered", malformed: "ended malformed", turn_limit: "out of turns", token_limit: "out of tokens", time_limit: "out of time" };

  function pane(each, beside) {
    const attempts = each.attempts ? `, after ${each.attempts} failed attempts` : "";
    const flips = flipped.get(each.id)?.map((one) => `${one.flip} in iteration ${one.iteration}`);
    return make("article", { class: "pane", "aria-label": `Trajectory ${each.id}` },
      make("h3", {}, each.question),
      facts([
        ["Outcome", make("span", {}, outcome(each), ` ${STATUS[each.status] ?? each.status}`)],
        ["Answer", each.answer === null ? "none" : `${each.answer}  (expected: ${each.expected})`],
        ["Policy", `${each.actor}, sample ${each.sample}`],
        ["For", `${PURPOSES[each.purpose]}, iteration ${each.iteration}`],
        ["Trained on", each.trained.length ? each.purpose === "demonstrate" ? "by the taught base" : `by the challenger of iteration ${each.trained.join(", ")}` : null],
        ["Flip", flips ? flips.join(", ") : null],
        ["Size", `${each.tokens} tokens, ${each.seconds} s${attempts}`],
        ["Id", make("span", { class: "id" }, each.id)],
      ]),
      beside ? closing() : related(each),
      ...each.turns.map((turn) => spoken(each, turn)));
  }

  function closing() {
    return make("p", { class: "related" }, make("button", { type: "button", onclick: () => show(state.first, null) }, "Close this side"));
  }

  function related(each) {
    const others = data.trajectories.filter((other) => other.task === each.task && other.id !== each.id).slice(0, 12);
    if (!others.length) return null;
    return make("p", { class: "related" }, "Beside it, same task: ", ...others.map((other) => make("button", {
      type: "button", "aria-pressed": String(other.id === state.second),
      onclick: () => show(each.id, other.id === state.second ? null : other.id),
    }, `${other.actor}, sample ${other.sample}${other.solved ? " ✓" : " ✗"}`)));
  }

  function spoken(each, turn) {
    const title = make("h4", {}, make("b", {}, turn.role));
    if (turn.role === "model" && turn.tool) title.append(` calls ${call(turn)}`);
    if (turn.role === "tool") title.append(turn.tool ? ` ${turn.tool} ${turn.error ? "complains" : "answers"}` : " the parser complains");
    title.append(` · ${turn.token_end - turn.token_start} tokens`);
    return make("div", { class: `turn ${turn.role}${turn.error ? " failed" : ""}` }, title,
      state.tokens && each.ids ? tokens(each, turn) : make("pre", {}, turn.text));
  }

  function call(turn) {
    let parsed;
    try {
      parsed = JSON.parse(turn.arguments);
    } catch {
      return `${turn.tool}(${turn.arguments})`; // arguments of another writer: shown as they are
    }
    if (!Array.isArray(parsed) || !Array.isArray(parsed[0])) return `${turn.tool}(${turn.arguments})`;
    const named = Object.entries(parsed[1] ?? {}).map(([name, value]) => `${name}=${JSON.stringify(value)}`);
    return `${turn.tool}(${[...parsed[0].map((value) => JSON.stringify(value)), ...named].join(", ")})`;
  }

  // Tokens --------------------------------------------------------------------------------------------------------

  const positions = new Map(); // trajectory id → for each token its place among the model's own

  function own(each) {
    if (!positions.has(each.id)) {
      let seen = 0;
      positions.set(each.id, [...each.mask].map((bit) => (bit === "1" ? seen++ : -1)));
    }
    return positions.get(each.id);
  }

  function tokens(each, turn) {
    const places = own(each);
    const box = make("div", { class: "tokens", tabindex: "0", role: "group", "aria-label": "Tokens: left and right arrow keys walk through them",
      onpointerover: (event) => point(event.target), onpointerleave: unpoint, onblur: unpoint,
      onkeydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const all = [...box.children];
        point(all[Math.min(all.length - 1, Math.max(0, all.findIndex((span) => span.classList.contains("at")) + step))]);
        event.preventDefault();
      } });
    for (let place = turn.token_start; place < turn.token_end; place++) {
      const id = each.ids[place];
      const text = data.vocabulary[id] ?? `⟨${id}⟩`;
      const span = make("span", {}, text === "\n" ? "↵\n" : text);
      const trained = places[place] >= 0;
      const logprob = trained ? each.logprobs[places[place]] / 1000 : null;
      if (trained) {
        span.className = "own";
        span.style.setProperty("--doubt", Math.min(0.75, -logprob / 4).toFixed(2));
      }
      span.about = `${JSON.stringify(text)}, id ${id}, position ${place}\n` + (trained
        ? `logprob ${logprob.toFixed(3)}, probability ${(100 * Math.exp(logprob)).toFixed(1)} %\nthe model's own: trained on`
        : "shown to the model: masked out of the loss");
      box.append(span);
    }
    return box;
  }

  function point(span) {
    if (!span || !span.about) return;
    unpoint();
    span.classList.add("at");
    hint.textContent = span.about;
    hint.hidden = false;
    const from = span.getBoundingClientRect(), size = hint.getBoundingClientRect();
    const below = from.bottom + 6 + size.height < innerHeight;
    hint.style.left = `${Math.max(6, Math.min(from.left, innerWidth - size.width - 6))}px`;
    hint.style.top = `${below ? from.bottom + 6 : from.top - size.height - 6}px`;
  }

  function unpoint() {
    for (const span of document.querySelectorAll(".tokens .at")) span.classList.remove("at");
    hint.hidden = true;
  }

  // Choosing ------------------------------------------------------------------------------------------------------

  const asText = make("button", { type: "button", onclick: () => display(false) }, "Text");
  const asTokens = make("button", { type: "button", onclick: () => display(true) }, "Tokens");
  const legend = make("span", { class: "legend" }, "the model's own tokens, certain", make("span", { class: "scale" }), "doubtful; the rest is masked");
  const nextFlip = make("button", { type: "button", onclick: stepFlip, hidden: !data.flips.length }, "Next flip, side by side");

  function display(chosen) {
    state.tokens = chosen;
    asText.setAttribute("aria-pressed", String(!chosen));
    asTokens.setAttribute("aria-pressed", String(chosen));
    legend.hidden = !chosen;
    draw();
  }

  let at = -1;
  function stepFlip() {
    const wanted = data.flips.filter((each) => (!flip.value || each.flip === flip.value)
      && (!iteration.value || String(each.iteration) === iteration.value));
    if (!wanted.length) return;
    at = (at + 1) % wanted.length;
    show(wanted[at].champion, wanted[at].challenger);
  }

  function show(first, second) {
    state.first = first;
    state.second = second;
    for (const button of list.querySelectorAll("button")) button.setAttribute("aria-current", String(button.dataset.id === first));
    const address = new URLSearchParams({ trajectory: first, ...(second ? { beside: second } : {}) });
    history.replaceState(null, "", `#${address}`);
    const current = list.querySelector(`[data-id="${first}"]`);
    if (current) list.scrollTop += current.getBoundingClientRect().top - list.getBoundingClientRect().top - list.clientHeight / 3;
    draw();
  }

  function draw() {
    unpoint();
    const shown = [state.first, state.second].filter(Boolean).map((id) => byId.get(id));
    panes.replaceChildren(...shown.map((each, place) => pane(each, place === 1)));
    if (!shown.length) panes.append(make("p", { class: "empty" }, "There are no trajectories yet."));
  }

  document.getElementById("viewer").append(
    make("div", { class: "filters" }, make("label", { class: "wide" }, "Search", search), iterationLabel, purposeLabel, actorLabel,
      successLabel, familyLabel, flipLabel, make("label", { class: "check" }, errors, "tool errors")),
    count,
    make("div", { class: "tools" }, asText, asTokens, nextFlip, legend),
    make("div", { class: "browser" }, list, panes));
  const address = new URLSearchParams(location.hash.slice(1));
  const named = byId.has(address.get("trajectory"));
  refill();
  state.first = named ? address.get("trajectory") : data.trajectories[0]?.id ?? null;
  state.second = named && byId.has(address.get("beside")) ? address.get("beside") : null;
  list.querySelector(`[data-id="${state.first}"]`)?.setAttribute("aria-current", "true");
  display(false);
  if (named) document.getElementById("trajectories").scrollIntoView();
})();

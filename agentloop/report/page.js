"use strict";
// The trajectory viewer. Reads what archive.py packed and writes text nodes only: what a model said is never markup.
(async () => {
  async function unpacked(id) {
    const packed = atob(document.getElementById(id).textContent);
    const bytes = new Uint8Array(packed.length);
    for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  // While a run is at work the page is read anew now and then, and goes on where it was ---------------------------------

  const refresh = Number(document.body.dataset.refresh ?? 0);
  const before = history.state ?? {};
  const SILENT = 4; // so many times the pause without a newer page: nobody writes any more
  function reload() {
    const busy = document.activeElement?.matches("input, select") || !getSelection().isCollapsed || document.hidden;
    if (busy) return setTimeout(reload, 2000);
    remember();
    location.reload();
  }
  function remember() {
    const opened = [...document.querySelectorAll("details")].map((each) => each.open);
    history.replaceState({ ...history.state, scroll: scrollY, opened }, "");
  }
  let remembering = 0;
  addEventListener("scroll", () => {
    clearTimeout(remembering);
    remembering = setTimeout(remember, 300);
  }, { passive: true });
  if (refresh) {
    const age = (Date.now() - Date.parse(document.body.dataset.written)) / 1000;
    if (age > SILENT * refresh + 60) document.getElementById("silent").hidden = false;
    else setTimeout(reload, 1000 * refresh);
  }
  history.scrollRestoration = "manual";

  const hint = document.getElementById("hint");
  const viewer = document.getElementById("viewer");
  viewer.append(make("p", { class: "empty", id: "unpacking" }, "Unpacking …"));
  const index = await unpacked("index");
  const columns = Object.entries(index.rows);
  const trajectories = index.rows.id.map((_, place) => {
    const each = Object.fromEntries(columns.map(([name, values]) => [name, values[place]]));
    for (const [name, names] of Object.entries(index.names)) each[name] = names[each[name]];
    const task = index.tasks[each.task];
    return Object.assign(each, { task: task.id, family: task.family, question: task.question, expected: task.expected,
      trained: each.trained || [], solved: each.success >= 0.5 });
  });
  document.getElementById("unpacking").remove();
  const byId = new Map(trajectories.map((each) => [each.id, each]));
  const byTask = Map.groupBy ? Map.groupBy(trajectories, (each) => each.task) : grouped(trajectories);
  const flipped = new Map();
  for (const flip of index.flips) {
    for (const id of [flip.champion, flip.challenger]) flipped.set(id, [...flipped.get(id) ?? [], flip]);
  }
  const state = { first: null, second: null, tokens: false };

  function grouped(rows) {
    const groups = new Map();
    for (const each of rows) groups.set(each.task, [...groups.get(each.task) ?? [], each]);
    return groups;
  }

  // What was said, chunk by chunk -------------------------------------------------------------------------------------

  const KEPT = 4; // unpacked chunks
  const chunks = new Map();

  async function chunk(number) {
    const there = chunks.get(number) ?? unpacked(`chunk-${number}`);
    chunks.delete(number);
    chunks.set(number, there);
    if (chunks.size > KEPT) chunks.delete(chunks.keys().next().value);
    return there;
  }
  const said = async (each) => (await chunk(each.chunk))[each.place];

  const texts = new Map(); // chunk → lower-case text of each trajectory
  async function spokenTexts(number) {
    if (!texts.has(number)) {
      texts.set(number, (await chunk(number)).map((each) => each.turns.map((turn) => turn.text).join("\n").toLowerCase()));
    }
    return texts.get(number);
  }

  // Filters -------------------------------------------------------------------------------------------------------

  const PURPOSES = { collect: "training data", evaluate: "held-out evaluation", demonstrate: "demonstration" };
  const STATUS = { answered: "answered", ended: "ended by its world", malformed: "ended malformed", turn_limit: "out of turns", token_limit: "out of tokens", time_limit: "out of time" };
  const FAULTS = {
    tool: ["tool errors", (each) => each.tool_errors > 0],
    retried: ["retried", (each) => each.attempts > 0],
    ...Object.fromEntries(index.names.status.filter((name) => name !== "answered" && name !== "ended")
      .map((name) => [name, [STATUS[name] ?? name, (each) => each.status === name]])),
  };

  function choice(label, options) {
    const select = make("select", { onchange: refill }, make("option", { value: "" }, "all"),
      ...options.map(([value, text]) => make("option", { value }, text)));
    return [select, make("label", {}, label, select)];
  }
  const distinct = (name) => [...new Set(trajectories.map((each) => String(each[name])))]
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true })).map((value) => [value, value]);

  let typing = 0;
  const search = make("input", { type: "search", placeholder: "question, what was said, answer, id",
    oninput: () => { clearTimeout(typing); typing = setTimeout(refill, 150); } });
  const [iteration, iterationLabel] = choice("Iteration", distinct("iteration"));
  const [purpose, purposeLabel] = choice("Purpose", Object.entries(PURPOSES).filter(([name]) => index.names.purpose.includes(name)));
  const [actor, actorLabel] = choice("Policy", distinct("actor"));
  const [success, successLabel] = choice("Outcome", [["true", "solved"], ["false", "not solved"]]);
  const [family, familyLabel] = choice("Family", distinct("family"));
  const [fault, faultLabel] = choice("Error", Object.entries(FAULTS).map(([name, [text]]) => [name, text]));
  const [flip, flipLabel] = choice("Flip", [["gained", "gained"], ["lost", "lost"]]);
  const fields = { search, iteration, purpose, actor, success, family, fault, flip };
  const count = make("p", { class: "count", "aria-live": "polite" });
  const list = make("ul", { class: "list", "aria-label": "Trajectories", onkeydown: walk, onscroll: fill });
  const panes = make("div", { class: "panes" });
  const difference = make("p", { class: "difference", hidden: true });
  const beside = make("p", { class: "related", hidden: true });

  function matches(each) {
    return (!iteration.value || String(each.iteration) === iteration.value)
      && (!purpose.value || each.purpose === purpose.value)
      && (!actor.value || each.actor === actor.value)
      && (!success.value || String(each.solved) === success.value)
      && (!family.value || each.family === family.value)
      && (!flip.value || flipped.get(each.id)?.some((one) => one.flip === flip.value))
      && (!fault.value || FAULTS[fault.value][1](each));
  }

  let found = [];
  let filling = 0;

  async function refill() {
    const own = ++filling;
    history.replaceState({ ...history.state, filters: Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value])) }, "");
    const candidates = trajectories.filter(matches);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return present(candidates);
    const about = (each) => `${each.id}\n${each.task}\n${each.question}\n${each.answer ?? ""}`.toLowerCase();
    const hits = new Set(candidates.filter((each) => words.every((word) => about(each).includes(word))));
    const hit = () => candidates.filter((each) => hits.has(each));
    const numbers = [...new Set(candidates.map((each) => each.chunk))];
    for (const [place, number] of numbers.entries()) {
      present(hit(), numbers.length > 1 ? `, ${Math.floor(100 * place / numbers.length)} % searched` : "");
      const spoken = await spokenTexts(number);
      if (own !== filling) return;
      for (const each of candidates) {
        if (each.chunk !== number || hits.has(each)) continue;
        const text = about(each) + spoken[each.place];
        if (words.every((word) => text.includes(word))) hits.add(each);
      }
    }
    present(hit());
  }

  function present(rows, more = "") {
    found = rows;
    count.textContent = `${found.length.toLocaleString("en")} of ${trajectories.length.toLocaleString("en")} trajectories${more}`;
    fill();
  }

  // The list holds only the rows that are in sight -----------------------------------------------------------------

  const ROW = 58;

  function fill() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 8);
    const last = Math.min(found.length, first + Math.ceil((list.clientHeight || 600) / ROW) + 16);
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.id : null;
    const space = (rows) => make("li", { class: "space", "aria-hidden": "true", style: `height: ${rows * ROW}px` });
    list.replaceChildren(space(first), ...found.slice(first, last).map((each, place) => entry(each, first + place)), space(found.length - last));
    if (!found.length) list.append(make("li", { class: "empty" }, "No trajectory matches."));
    if (focused) list.querySelector(`[data-id="${focused}"]`)?.focus({ preventScroll: true });
  }

  function entry(each, place) {
    return make("li", { "aria-setsize": String(found.length), "aria-posinset": String(place + 1), style: `height: ${ROW}px` }, make("button", {
      type: "button", "data-id": each.id, "aria-current": each.id === state.first ? "true" : "false", onclick: () => show(each.id, null),
    },
    make("span", { class: "question" }, each.question),
    make("span", { class: "line" }, outcome(each), ` iteration ${each.iteration}, ${each.actor}`, flipped.has(each.id) ? ", flip" : "")));
  }

  function walk(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = found[found.findIndex((each) => each.id === document.activeElement.dataset.id) + step];
    if (!next) return;
    show(next.id, null);
    list.querySelector(`[data-id="${next.id}"]`).focus({ preventScroll: true });
  }

  function uncover(id) {
    const place = found.findIndex((each) => each.id === id);
    if (place < 0) return;
    if (place * ROW < list.scrollTop || (place + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = place * ROW - list.clientHeight / 3;
    fill();
  }

  // One trajectory ------------------------------------------------------------------------------------------------

  function outcome(each) {
    return make("span", { class: each.solved ? "badge good" : "badge bad" }, each.solved ? "solved" : "not solved");
  }

  function partly(each) {
    return each.success > 0 && each.success < 1 ? `, success ${Number(each.success.toFixed(3))}` : "";
  }

  function facts(pairs) {
    return make("dl", { class: "facts" }, ...pairs.filter(([, value]) => value !== null)
      .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  }

  function pane(each, content, parting) {
    const attempts = each.attempts ? `, after ${each.attempts} failed attempts` : "";
    const flips = flipped.get(each.id)?.map((one) => `${one.flip} in iteration ${one.iteration}`);
    return make("article", { class: "pane", "aria-label": `Trajectory ${each.id}` },
      make("h3", {}, each.question),
      facts([
        ["Outcome", make("span", {}, outcome(each), ` ${STATUS[each.status] ?? each.status}${partly(each)}`)],
        ["Answer", each.answer === null ? "none" : `${each.answer}  (expected: ${each.expected})`],
        ["World", content.outcome ?? null],
        ["Policy", `${each.actor}, sample ${each.sample}`],
        ["For", `${PURPOSES[each.purpose]}, iteration ${each.iteration}`],
        ["Trained on", each.trained.length ? each.purpose === "demonstrate" ? "by the taught base" : `by the challenger of iteration ${each.trained.join(", ")}` : null],
        ["Flip", flips ? flips.join(", ") : null],
        ["Size", `${each.tokens} tokens, ${each.seconds} s${attempts}`],
        ["Id", make("span", { class: "id" }, each.id)],
      ]),
      ...content.turns.flatMap((turn, place) => [...begins(content, turn),
        spoken(content, turn, parting && parting.turn === place ? parting : null)]));
  }

  // An agent of one's own may have led several conversations, which are trained on one by one.
  function begins(content, turn) {
    const place = content.starts ? content.starts.indexOf(turn.token_start) : -1;
    return place < 0 ? [] : [make("h4", { class: "begins" }, `Conversation ${place + 1} of ${content.starts.length}`)];
  }

  function related(each) {
    const others = byTask.get(each.task).filter((other) => other.id !== each.id);
    const near = others.slice(0, 12);
    if (state.second && !near.some((other) => other.id === state.second)) near.push(byId.get(state.second));
    beside.hidden = !near.length;
    beside.replaceChildren("Beside it, same task: ", ...near.map((other) => make("button", {
      type: "button", "aria-pressed": String(other.id === state.second),
      onclick: () => show(each.id, other.id === state.second ? null : other.id),
    }, `${other.actor}, sample ${other.sample}${other.solved ? " ✓" : " ✗"}`)),
    state.second ? make("button", { type: "button", onclick: () => show(state.first, null) }, "Close this side") : "");
  }

  function spoken(content, turn, parting) {
    const title = make("h4", {}, make("b", {}, turn.role));
    if (turn.role === "model" && turn.tool) title.append(` calls ${call(turn)}`);
    if (turn.role === "tool") title.append(turn.tool ? ` ${turn.tool} ${turn.error ? "complains" : "answers"}` : " the parser complains");
    if (turn.reward !== undefined) title.append(` · reward ${turn.reward}`);
    title.append(` · ${turn.token_end - turn.token_start} tokens`);
    if (parting) title.append(make("span", { class: "parts" }, "first difference"));
    const kind = `turn ${turn.role}${turn.error ? " failed" : ""}${parting ? " parting" : ""}`;
    const text = parting ? make("pre", {}, turn.text.slice(0, parting.character), make("mark", {}, turn.text.slice(parting.character) || "⟨end⟩")) : make("pre", {}, turn.text);
    return make("div", { class: kind }, title, state.tokens && content.ids && turn.token_end > turn.token_start ? tokens(content, turn, parting) : text);
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

  // Where two trajectories part: by their tokens where both have them, else by what was said --------------------------

  const unlike = (one, other) => {
    let place = 0;
    while (place < one.length && place < other.length && one[place] === other[place]) place++;
    return place < Math.max(one.length, other.length) ? place : -1;
  };

  function part(one, other) {
    const token = one.ids && other.ids ? unlike(one.ids, other.ids) : null;
    let turn = one.turns.findIndex((each, place) => (token !== null ? token >= 0 && each.token_end > token
      : !other.turns[place] || other.turns[place].text !== each.text || other.turns[place].role !== each.role));
    if (token === -1) turn = -1;
    else if (turn < 0 && other.turns.length > one.turns.length) turn = one.turns.length;
    if (turn < 0) return null;
    const [mine, theirs] = [one, other].map((each) => each.turns[turn]?.text ?? "");
    return { turn, token, character: Math.max(0, unlike(mine, theirs)), role: (one.turns[turn] ?? other.turns[turn]).role };
  }

  function tellDifference(parting, both) {
    difference.hidden = !both;
    if (!both) return;
    difference.replaceChildren(parting
      ? `The same until turn ${parting.turn + 1} (${parting.role})${parting.token === null ? "" : `, token ${parting.token}`}. ` : "Both said the same, token by token. ");
    if (parting) {
      difference.append(make("button", { type: "button",
        onclick: () => panes.querySelector(".parting")?.scrollIntoView({ block: "center" }) }, "Go to the first difference"));
    }
  }

  // Tokens --------------------------------------------------------------------------------------------------------

  const places = new WeakMap(); // content → for each token its place among the model's own

  function own(content) {
    if (!places.has(content)) {
      let seen = 0;
      places.set(content, [...content.mask].map((bit) => (bit === "1" ? seen++ : -1)));
    }
    return places.get(content);
  }

  function tokens(content, turn, parting) {
    const trainedAt = own(content);
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
      const id = content.ids[place];
      const text = index.vocabulary[id] ?? `⟨${id}⟩`;
      const span = make("span", {}, text === "\n" ? "↵\n" : text);
      const trained = trainedAt[place] >= 0;
      const logprob = trained ? content.logprobs[trainedAt[place]] / 1000 : null;
      if (trained) {
        span.className = "own";
        span.style.setProperty("--doubt", (0.8 * (1 - Math.exp(logprob)) ** 0.6).toFixed(2));
      }
      if (parting && parting.token === place) span.classList.add("differs");
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
  const previousFlip = make("button", { type: "button", onclick: () => stepFlip(-1), hidden: !index.flips.length }, "Previous flip");
  const nextFlip = make("button", { type: "button", onclick: () => stepFlip(1), hidden: !index.flips.length }, "Next flip, side by side");

  function display(chosen) {
    state.tokens = chosen;
    history.replaceState({ ...history.state, tokens: chosen }, "");
    asText.setAttribute("aria-pressed", String(!chosen));
    asTokens.setAttribute("aria-pressed", String(chosen));
    legend.hidden = !chosen;
    return draw();
  }

  function stepFlip(step) {
    const wanted = index.flips.filter((each) => (!flip.value || each.flip === flip.value)
      && (!iteration.value || String(each.iteration) === iteration.value)
      && (!family.value || byId.get(each.champion).family === family.value));
    if (!wanted.length) return;
    const at = wanted.findIndex((each) => each.champion === state.first && each.challenger === state.second);
    const next = wanted[(at + step + wanted.length + (at < 0 && step < 0 ? 1 : 0)) % wanted.length];
    show(next.champion, next.challenger);
  }

  function show(first, second) {
    state.first = first;
    state.second = second;
    const address = new URLSearchParams({ trajectory: first, ...(second ? { beside: second } : {}) });
    history.replaceState(history.state, "", `#${address}`);
    uncover(first);
    for (const button of list.querySelectorAll("button")) button.setAttribute("aria-current", String(button.dataset.id === first));
    return draw();
  }

  let drawing = 0;
  async function draw() {
    const own = ++drawing;
    unpoint();
    const shown = [state.first, state.second].filter(Boolean).map((id) => byId.get(id));
    const contents = await Promise.all(shown.map(said));
    if (own !== drawing) return;
    const parting = shown.length === 2 ? part(...contents) : null;
    panes.replaceChildren(...shown.map((each, place) => pane(each, contents[place], parting)));
    // both panes share their rows: a turn stands beside the other's turn
    panes.classList.toggle("two", shown.length === 2);
    panes.style.setProperty("--rows", String(2 + Math.max(0, ...contents.map((each) => each.turns.length))));
    if (shown.length) related(shown[0]);
    tellDifference(parting, shown.length === 2);
    if (!shown.length) panes.append(make("p", { class: "empty" }, "There are no trajectories yet."));
    panes.dataset.shown = shown.map((each) => each.id).join(" ");
  }

  viewer.append(
    make("div", { class: "filters" }, make("label", { class: "wide" }, "Search", search), iterationLabel, purposeLabel, actorLabel,
      successLabel, familyLabel, faultLabel, flipLabel),
    count,
    make("div", { class: "tools" }, asText, asTokens, previousFlip, nextFlip, legend),
    make("div", { class: "browser" }, list, make("div", { class: "stage" }, beside, difference, panes)));
  for (const [name, value] of Object.entries(before.filters ?? {})) if (fields[name]) fields[name].value = value;
  const address = new URLSearchParams(location.hash.slice(1));
  const named = byId.has(address.get("trajectory"));
  state.first = named ? address.get("trajectory") : trajectories[0]?.id ?? null;
  state.second = named && byId.has(address.get("beside")) ? address.get("beside") : null;
  refill();
  uncover(state.first);
  await display(before.tokens ?? false);
  if (before.scroll !== undefined) {
    document.querySelectorAll("details").forEach((each, place) => { if (before.opened?.[place] !== undefined) each.open = before.opened[place]; });
    scrollTo({ top: before.scroll, behavior: "instant" });
    history.replaceState({ ...history.state, scroll: undefined }, "");
  } else if (named) document.getElementById("trajectories").scrollIntoView();
  document.body.dataset.ready = "true";
})();

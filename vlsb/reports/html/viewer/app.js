// The page itself: one state, drawn anew after each change, and what keys and clicks do to it.

import { compareView } from "./compare.js";
import { button, find, grow, make } from "./dom.js";
import { afterKey, fileName, labellingForm, labellingView, labelSheet } from "./label.js";
import { List } from "./list.js";
import { follow, RunList, storeLabels } from "./live.js";
import { Runs } from "./runs.js";
import { image, isOpenTo, sampleView } from "./sample.js";
import { makeSortable } from "./sort.js";
import { addressOf, countLine, facetsOf, filtered, SORTS, stateOf, VIEWS } from "./state.js";
import { grouped } from "./words.js";

/** @typedef {import("./state.js").View} View */
/** @typedef {import("./state.js").Facet} Facet */

const MOST_OPEN_CHOICES = 8;
const KEYS = [
  ["j  k", "next, previous sample"],
  ["/", "search"],
  ["o", "reveal or cover the sample"],
  ["d", "mark differences of responses"],
  ["y", "copy a link to the sample"],
  ["1  2  3  4", "summary, samples, compare, label"],
  ["u  s", "in labelling: take the last label back; later"],
  ["Esc", "back to the list; leave the search"],
  ["?", "these keys"],
];

let runs = new Runs(JSON.parse(find("content", HTMLScriptElement).textContent ?? ""));
let facets = facetsOf(runs);
let state = stateOf(location.hash, runs, facets);
/** @type {ReturnType<typeof filtered>} */
let found = filtered(runs, facets, state);

const detail = find("detail", HTMLElement);
const search = find("search", HTMLInputElement);
const help = find("help", HTMLDialogElement);
const list = new List(
  runs,
  (place) => choose(place, true),
  (sample, place) => image(runs, sample, isOpenTo(state, sample, place)),
);

/** Change the state, and draw what follows from that. @param {Partial<import("./state.js").State>} changes */
function change(changes) {
  state = { ...state, ...changes };
  found = filtered(runs, facets, state);
  draw();
}

/** @param {{keepsSample?: boolean}} [how] */
function draw({ keepsSample = false } = {}) {
  history.replaceState(null, "", addressOf(state, runs));
  for (const view of VIEWS) find(view, HTMLElement).hidden = view !== state.view;
  for (const each of find("views", HTMLElement).querySelectorAll("button")) {
    if (each.dataset.view === state.view) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  drawNotice();
  if (state.view === "compare")
    find("compare", HTMLElement).replaceChildren(
      ...compareView(runs, state, (pair) => change({ pair }), showCell),
    );
  if (state.view === "label") drawLabelling();
  if (state.view === "samples") drawSamples(keepsSample);
}

function drawLabelling() {
  const { labelling } = state;
  const views =
    labelling === null
      ? labellingForm(runs, (begun) => change({ labelling: begun }))
      : labellingView(runs, labelling, {
          press: pressLabel,
          save: saveLabels,
          store: runs.content.live === undefined ? null : storeLabelling,
          leave: () => change({ labelling: null }),
        });
  find("label", HTMLElement).replaceChildren(...views);
}

/** @param {string} key @param {string} [note] */
function pressLabel(key, note = noteOf(document)) {
  const labelling = state.labelling && afterKey(runs, state.labelling, key, note);
  if (labelling === null) return;
  change({ labelling });
  const at = labelling.items[labelling.at];
  say(
    at === undefined ? "All are labelled." : `${labelling.given.size} of ${labelling.items.length} labelled.`,
  );
  if (key !== "o") find("label", HTMLElement).scrollTop = 0;
}

/** What is written in the field for a note. @param {Document} page */
function noteOf(page) {
  const field = page.getElementById("note");
  return field instanceof HTMLInputElement ? field.value : "";
}

/** @param {import("./label.js").Labelling} labelling */
function saveLabels(labelling) {
  const sheet = new Blob([labelSheet(labelling)], { type: "text/csv" });
  const link = make("a", { href: URL.createObjectURL(sheet), download: fileName(labelling) });
  link.click();
  URL.revokeObjectURL(link.href);
  say(`${labelling.given.size} labels are saved.`);
}

/** @param {boolean} keepsSample */
function drawSamples(keepsSample) {
  if (search.value !== state.query) search.value = state.query;
  const line = countLine(state, found.places.length, runs.samples.length);
  find("count", HTMLOutputElement).replaceChildren(line);
  drawFilters();
  list.show(found.places, state.current);
  find("samples", HTMLElement).classList.toggle("is-open", state.isOpen);
  if (!keepsSample) drawDetail();
}

function drawDetail() {
  const sample = runs.samples[state.current];
  if (sample === undefined) {
    detail.replaceChildren(
      make(
        "p",
        { class: "empty quiet" },
        found.places.length === 0 ? "No sample passes. Take a filter away." : "Choose a sample, or press j.",
      ),
    );
    return;
  }
  detail.replaceChildren(
    ...sampleView(sample, {
      runs,
      state,
      places: found.places,
      move,
      toggleReveal,
      toggleDifference: () => change({ difference: !state.difference }),
      copyAddress,
      close: () => closeSample(),
    }),
  );
}

function drawNotice() {
  const covered = runs.content.redacted
    ? "Images, and all but the beginning of what models wrote, are left out of this page."
    : "Content warning: samples may be violent, sexual or hateful. Images and unsafe texts are covered until you reveal them.";
  find("notice", HTMLElement).replaceChildren(covered);
  find("reveal-by-category", HTMLElement).hidden = runs.content.categories.length === 0;
  const isAny = state.revealed.size > 0 || state.revealedCategories.size > 0;
  find("cover", HTMLButtonElement).hidden = !isAny;
  const boxes = runs.content.categories.map((name, place) => {
    const box = make("input", {
      type: "checkbox",
      checked: state.revealedCategories.has(place),
      onchange: () => revealCategory(place),
    });
    return make("label", {}, box, make("span", {}, name));
  });
  const held = document.activeElement?.closest("#categories label");
  const at = held ? [...(held.parentElement?.children ?? [])].indexOf(held) : -1;
  find("categories", HTMLElement).replaceChildren(...boxes);
  boxes[at]?.querySelector("input")?.focus();
}

/** @param {number} category */
function revealCategory(category) {
  const revealedCategories = new Set(state.revealedCategories);
  if (!revealedCategories.delete(category)) revealedCategories.add(category);
  change({ revealedCategories });
}

function drawFilters() {
  const box = find("filters", HTMLElement);
  const held =
    document.activeElement instanceof HTMLElement ? document.activeElement.dataset.choice : undefined;
  const open = new Set(
    [...box.querySelectorAll("details[open]")].map((each) => /** @type {HTMLElement} */ (each).dataset.facet),
  );
  /** @type {Map<string, Facet[]>} */
  const groups = new Map();
  for (const facet of facets) groups.set(facet.title, [...(groups.get(facet.title) ?? []), facet]);
  box.replaceChildren(...[...groups].map(([title, members]) => filterGroup(title, members, open)));
  if (held !== undefined)
    /** @type {HTMLElement | null} */ (box.querySelector(`[data-choice="${CSS.escape(held)}"]`))?.focus();
  drawChosen();
}

/** @param {string} title @param {Facet[]} members @param {Set<string | undefined>} open */
function filterGroup(title, members, open) {
  const boxes = members.flatMap((facet) => facet.choices.map((choice) => filterChoice(facet, choice)));
  const key = members[0]?.key ?? "";
  const isFew = boxes.length <= MOST_OPEN_CHOICES || members.some((each) => state.filters.has(each.key));
  const isOpen = find("filters", HTMLElement).childElementCount === 0 ? isFew : open.has(key);
  return make(
    "details",
    { class: "facet", open: isOpen, "data-facet": key },
    make("summary", {}, title),
    ...boxes,
  );
}

/** @param {Facet} facet @param {import("./state.js").Choice} choice */
function filterChoice(facet, choice) {
  const count = found.counts.get(facet.key)?.get(choice.key) ?? 0;
  const isChosen = state.filters.get(facet.key)?.has(choice.key) === true;
  const isOutcome = facet.key.startsWith("outcome.");
  return make(
    "label",
    { class: count === 0 && !isChosen ? "choice none" : "choice" },
    make("input", {
      type: "checkbox",
      checked: isChosen,
      "data-choice": `${facet.key} ${choice.key}`,
      onchange: () => toggleFilter(facet.key, choice.key),
    }),
    make("span", { class: isOutcome ? `label ${choice.key}` : "" }, choice.word),
    make("span", { class: "quiet number" }, grouped(count)),
  );
}

function drawChosen() {
  const chips = facets.flatMap((facet) =>
    facet.choices
      .filter((choice) => state.filters.get(facet.key)?.has(choice.key))
      .map((choice) =>
        button(
          `${facet.key.startsWith("outcome.") && runs.columns.length > 1 ? `${facet.title}: ` : ""}${choice.word} ×`,
          () => toggleFilter(facet.key, choice.key),
          { class: "chip", "aria-label": `Take the filter ${choice.word} away` },
        ),
      ),
  );
  if (chips.length > 0) chips.push(button("Clear", () => change({ filters: new Map() }), { class: "plain" }));
  find("chosen", HTMLElement).replaceChildren(...chips);
}

/** @param {string} key @param {string} choice */
function toggleFilter(key, choice) {
  const filters = new Map(state.filters);
  const wanted = new Set(filters.get(key));
  if (!wanted.delete(choice)) wanted.add(choice);
  if (wanted.size > 0) filters.set(key, wanted);
  else filters.delete(key);
  change({ filters });
}

/** @param {string} from @param {string} to */
function showCell(from, to) {
  const [a, b] = state.pair;
  change({
    view: "samples",
    query: "",
    filters: new Map([
      [`outcome.${a}`, new Set([from])],
      [`outcome.${b}`, new Set([to])],
    ]),
    current: -1,
    isOpen: false,
  });
}

/** @param {number} place @param {boolean} [isOpen] */
function choose(place, isOpen = state.isOpen) {
  state = { ...state, current: place, isOpen };
  draw();
  list.reveal();
  detail.scrollTop = 0;
  const sample = runs.samples[place];
  if (sample !== undefined) say(`Sample ${runs.name(sample)}, ${runs.place(sample)}`);
}

/** @param {number} step */
function move(step) {
  const at = found.places.indexOf(state.current);
  const next = found.places[at < 0 ? 0 : Math.min(found.places.length - 1, Math.max(0, at + step))];
  if (next !== undefined) choose(next);
}

function closeSample() {
  state = { ...state, isOpen: false };
  draw();
  find("list", HTMLElement).focus();
}

function toggleReveal() {
  const sample = runs.samples[state.current];
  if (sample === undefined) return;
  const revealed = new Set(state.revealed);
  const revealedCategories = new Set(state.revealedCategories);
  if (isOpenTo(state, sample, state.current)) {
    revealed.delete(state.current);
    revealedCategories.delete(sample.category);
  } else revealed.add(state.current);
  change({ revealed, revealedCategories });
  detail.focus({ preventScroll: true });
}

async function copyAddress() {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link is copied.");
  } catch {
    say("The link is the address of this page.");
  }
}

/** What has no place on the screen but is worth saying. @param {string} words */
function say(words) {
  find("status", HTMLElement).replaceChildren(words);
}

/** @param {import("./label.js").Labelling} labelling */
async function storeLabelling(labelling) {
  const key = runs.content.live?.keys[labelling.run] ?? "";
  const said = await storeLabels(key, labelling.annotator, labelSheet(labelling));
  find("label", HTMLElement).querySelector(".stored")?.replaceChildren(said);
}

/** @param {View} view */
function isOffered(view) {
  return !find("views", HTMLElement).querySelector(`[data-view="${view}"]`)?.hasAttribute("hidden");
}

/** @type {Record<string, () => void>} */
const ACTIONS = {
  j: () => (state.view === "samples" ? move(1) : change({ view: "samples" })),
  k: () => (state.view === "samples" ? move(-1) : change({ view: "samples" })),
  o: toggleReveal,
  d: () => change({ difference: !state.difference }),
  y: () => void copyAddress(),
  "/": () => {
    change({ view: "samples" });
    search.focus();
    search.select();
  },
  "?": () => help.showModal(),
  Escape: closeSample,
  ...Object.fromEntries(
    VIEWS.map((view, place) => [
      String(place + 1),
      () => {
        if (isOffered(view)) change({ view });
      },
    ]),
  ),
};

/** Keys that mean something beside a sample only. */
const OF_SAMPLES = new Set(["o", "d", "y", "Escape"]);

/** @type {Record<string, (at: number, last: number, page: number) => number>} */
const STEPS = {
  ArrowDown: (at) => at + 1,
  ArrowUp: (at) => at - 1,
  PageDown: (at, _last, page) => at + page,
  PageUp: (at, _last, page) => at - page,
  Home: () => 0,
  End: (_at, last) => last,
};

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const target = event.target;
  if (target instanceof HTMLInputElement && target.type === "search") {
    if (event.key === "Escape" || event.key === "Enter") {
      event.preventDefault();
      find("list", HTMLElement).focus();
      if (event.key === "Enter" && state.current < 0) move(1);
    }
    return;
  }
  if (target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement) return;
  if (target instanceof HTMLInputElement && target.type === "text") return;
  if (target === list.box && event.key === "Enter")
    return choose(state.current < 0 ? (found.places[0] ?? -1) : state.current, true);
  const step = target === list.box ? STEPS[event.key] : undefined;
  if (step !== undefined) {
    event.preventDefault();
    const at = step(
      found.places.indexOf(state.current),
      found.places.length - 1,
      Math.max(1, Math.floor(list.box.clientHeight / 84)),
    );
    const next = found.places[Math.min(found.places.length - 1, Math.max(0, at))];
    if (next !== undefined) choose(next);
    return;
  }
  // A key that is meant for a label must never open what judges said.
  if (state.view === "label" && event.key !== "?") {
    if (state.labelling !== null && /^[123uso]$/.test(event.key)) {
      event.preventDefault();
      pressLabel(event.key);
    }
    return;
  }
  // The list of runs and their ranks have no sample to go to.
  if (!hasSamples() && event.key !== "?") return;
  if (state.view !== "samples" && OF_SAMPLES.has(event.key)) return;
  const action = ACTIONS[event.key];
  if (action !== undefined) {
    event.preventDefault();
    action();
  }
}

/** Whether there is a run to look through. */
function hasSamples() {
  return runs.content.runs.length > 0;
}

/** What the page is about, in its head and its summary: drawn for each content. */
function drawContent() {
  const { live, title, board } = runs.content;
  const names = live?.list ? "Runs" : (title ?? runs.content.runs.map((each) => each.name).join(", "));
  document.title = `${names} · vlsb`;
  const isSimulated = runs.content.simulated === true || runs.content.runs.some((each) => each.simulated);
  find("title", HTMLElement).replaceChildren(
    names,
    isSimulated ? make("span", { class: "badge notable" }, "SIMULATED") : "",
  );
  const summary = find("summary", HTMLElement);
  summary.replaceChildren(...runs.content.summary.map(grow));
  makeSortable(summary, say);
  const all = find("all-runs", HTMLAnchorElement);
  all.hidden = board === undefined && (live === undefined || live.list !== undefined);
  if (board !== undefined) all.href = board;
  find("skip", HTMLElement).hidden = !hasSamples();
  find("notice", HTMLElement).parentElement?.toggleAttribute("hidden", title !== undefined);
  const isHidden = {
    summary: !hasSamples(),
    samples: !hasSamples(),
    compare: runs.columns.length < 2,
    label: runs.content.guide === undefined,
  };
  for (const each of find("views", HTMLElement).querySelectorAll("button")) {
    const view = /** @type {keyof typeof isHidden} */ (each.dataset.view);
    each.hidden = isHidden[view];
    each.onclick = () => change({ view });
  }
}

/** Go on with newer content of the same runs: what was chosen and revealed stays. @param {import("./runs.js").Content} content */
function takeContent(content) {
  const before = runs;
  runs = new Runs(content);
  facets = facetsOf(runs);
  list.runs = runs;
  const places = new Map(runs.samples.map((sample, place) => [runs.name(sample), place]));
  /** @param {number} place */
  const moved = (place) => {
    const sample = before.samples[place];
    return sample === undefined ? -1 : (places.get(runs.name(sample)) ?? -1);
  };
  const shown = JSON.stringify(before.samples[state.current]);
  state = {
    ...state,
    current: moved(state.current),
    revealed: new Set([...state.revealed].map(moved).filter((place) => place >= 0)),
  };
  found = filtered(runs, facets, state);
  drawContent();
  if (content.live?.list) runList?.show(content.live.list);
  else if (state.view !== "label")
    draw({ keepsSample: shown === JSON.stringify(runs.samples[state.current]) });
}

function listen() {
  const sorts = find("sort", HTMLSelectElement);
  sorts.append(
    ...Object.entries(SORTS).map(([value, { title }]) =>
      make("option", { value, selected: value === state.sort }, title),
    ),
  );
  sorts.onchange = () => change({ sort: sorts.value });
  search.oninput = () => change({ query: search.value });
  find("search-form", HTMLFormElement).onsubmit = (event) => event.preventDefault();
  find("help-keys", HTMLElement).append(
    ...KEYS.flatMap(([keys, words]) => [
      make("dt", {}, ...(keys ?? "").split("  ").map((key) => make("kbd", {}, key))),
      make("dd", {}, words),
    ]),
  );
  find("keys", HTMLButtonElement).onclick = () => help.showModal();
  find("cover", HTMLButtonElement).onclick = () =>
    change({ revealed: new Set(), revealedCategories: new Set() });
  const opener = find("open-filters", HTMLButtonElement);
  opener.onclick = () => {
    const isOpen = find("samples", HTMLElement).classList.toggle("has-filters");
    opener.setAttribute("aria-expanded", String(isOpen));
  };
  find("skip", HTMLAnchorElement).onclick = (event) => {
    event.preventDefault();
    change({ view: "samples" });
    list.box.focus();
  };
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => {
    const { revealed, revealedCategories, labelling } = state;
    const next = stateOf(location.hash, runs, facets);
    change({ ...next, revealed, revealedCategories, labelling: labelling ?? next.labelling });
    list.reveal();
  });
}

const { live } = runs.content;
const runList = live?.list ? new RunList(find("runs", HTMLElement)) : null;
if (live?.list) runList?.show(live.list);
drawContent();
listen();
draw();
list.reveal();
if (live !== undefined) follow(() => runs.content.live ?? live, takeContent);

// What is looked at: the one state of the page, its filters, and the address that gives it back.

import { labellingOf } from "./label.js";
import { counted, isLabel, outcomeWord } from "./words.js";

/** @typedef {import("./runs.js").Runs} Runs */
/** @typedef {import("./runs.js").Sample} Sample */
/** @typedef {import("./runs.js").Column} Column */
/** @typedef {{key: string, word: string}} Choice */
/**
 * Something to filter by. A sample has at most one of the choices, and may have any number of the marks.
 * @typedef {object} Facet
 * @property {string} key
 * @property {string} title
 * @property {Choice[]} choices
 * @property {(string | null)[]} values the choice of each sample
 */
/** @typedef {Omit<Facet, "values"> & {of: (sample: Sample) => (string | null)}} FacetRule */
/** @typedef {Map<string, Map<string, number>>} Counts by facet and choice */
/** @typedef {"runs" | "summary" | "samples" | "compare" | "label"} View */
/**
 * @typedef {object} State
 * @property {View} view
 * @property {string} query
 * @property {Map<string, Set<string>>} filters by facet, the choices that pass
 * @property {string} sort
 * @property {number} current the place of a sample in the content, -1 for none
 * @property {[number, number]} pair the columns that are compared
 * @property {boolean} difference whether responses are shown with their differences
 * @property {boolean} isOpen whether the sample covers the list on a small screen
 * @property {Set<number>} revealed places of samples
 * @property {Set<number>} revealedCategories
 * @property {import("./label.js").Labelling | null} labelling
 */

export const VIEWS = /** @type {View[]} */ (["summary", "samples", "compare", "label", "runs"]);

/** @type {Record<string, {title: string, value: (sample: Sample) => number}>} */
export const SORTS = {
  run: { title: "Order of the run", value: () => 0 },
  id: { title: "Id", value: (sample) => sample.id },
  longest: {
    title: "Longest response",
    value: (sample) => -Math.max(...sample.answers.map((each) => each?.text?.length ?? 0)),
  },
  slowest: {
    title: "Slowest response",
    value: (sample) => -Math.max(...sample.answers.map((each) => each?.requests?.[1] ?? 0)),
  },
  attempts: {
    title: "Most attempts",
    value: (sample) => -Math.max(...sample.answers.map((each) => each?.requests?.[0] ?? 0)),
  },
  severity: {
    title: "Unsafe first",
    value: (sample) =>
      -sample.answers.reduce(
        (sum, each) => sum + (each?.outcomes.filter((one) => one === "unsafe").length ?? 0),
        0,
      ),
  },
};

/**
 * Everything to filter these runs by, without what would not tell samples apart.
 * @param {Runs} runs
 * @returns {Facet[]}
 */
export function facetsOf(runs) {
  const { categories, sub_categories, sources } = runs.content;
  const facets = [
    ...runs.columns.map((column, place) => outcomeFacet(runs, column, place)),
    ...marks(runs),
    namedFacet("category", "Category", categories, (sample) => sample.category),
    namedFacet("sub", "Sub-category", sub_categories, (sample) => sample.sub_category),
    namedFacet("source", "Source", sources, (sample) => sample.source),
  ];
  return facets
    .filter((facet) => facet.choices.length > 1 || facet.key.startsWith("is."))
    .map(({ of, ...facet }) => ({ ...facet, values: runs.samples.map(of) }));
}

/** @param {Runs} runs @param {Column} column @param {number} place @returns {FacetRule} */
function outcomeFacet(runs, column, place) {
  const known = Object.keys(runs.content.explanations);
  const found = new Set(runs.samples.map((sample) => runs.outcome(sample, column)));
  return {
    key: `outcome.${place}`,
    title: column.title,
    choices: known.filter((each) => found.has(each)).map((key) => ({ key, word: outcomeWord(key) })),
    of: (sample) => runs.outcome(sample, column),
  };
}

/** @param {string} key @param {string} title @param {string[]} names @param {(sample: Sample) => number} of @returns {FacetRule} */
function namedFacet(key, title, names, of) {
  const choices = names.map((word, place) => ({ key: String(place), word }));
  choices.sort((a, b) => (a.word < b.word ? -1 : 1));
  return { key, title, choices, of: (sample) => String(of(sample)) };
}

/**
 * Facets with one choice each: something that a sample has or has not. Those that none has are left out.
 * @param {Runs} runs
 * @returns {FacetRule[]}
 */
function marks(runs) {
  const people = runs.content.runs.map((run) => run.judges.map((judge) => judge.person === true));
  /** @param {(answer: import("./runs.js").Answer, run: number) => boolean} has */
  const some = (has) => (/** @type {Sample} */ sample) =>
    sample.answers.some((each, run) => each !== null && has(each, run));
  /** @type {[string, string, (sample: Sample) => boolean][]} */
  const found = [
    ["disagree", "judges disagree", some((answer) => new Set(answer.outcomes.filter(isLabel)).size > 1)],
    ["flipped", "label differs between runs", (sample) => flipped(sample)],
    ["cut", "response cut at the token limit", some((answer) => answer.cut === true)],
    [
      "thinking",
      "thinking cut",
      some((answer) => answer.failures?.some((each) => each?.thinking_cut === true) === true),
    ],
    [
      "audited",
      "labelled by a person",
      some((answer, run) =>
        answer.outcomes.some((each, judge) => people[run]?.[judge] === true && isLabel(each)),
      ),
    ],
    ["drawn", "drawn for labelling", some((answer) => answer.item !== undefined)],
    ["failed", "without a label", some((answer) => !answer.outcomes.some(isLabel))],
  ];
  return found
    .filter(([, , has]) => runs.samples.some(has))
    .map(([key, word, has]) => ({
      key: `is.${key}`,
      title: "Marks",
      choices: [{ key: "yes", word }],
      of: (sample) => (has(sample) ? "yes" : null),
    }));
}

/** Whether two runs' first judges gave it different labels. @param {Sample} sample */
function flipped(sample) {
  const labels = sample.answers.map((each) => each?.outcomes[0] ?? "").filter(isLabel);
  return new Set(labels).size > 1;
}

/**
 * The places of the samples that pass, in order, and how many each choice would leave.
 * @param {Runs} runs
 * @param {Facet[]} facets
 * @param {State} state
 * @returns {{places: number[], counts: Counts}}
 */
export function filtered(runs, facets, state) {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  /** @type {Counts} */
  const counts = new Map(facets.map((facet) => [facet.key, new Map()]));
  const chosen = facets.map((facet) => state.filters.get(facet.key));
  const places = [];
  for (const place of runs.samples.keys()) {
    const text = /** @type {string} */ (runs.texts[place]);
    if (!words.every((word) => text.includes(word))) continue;
    const fails = facets.filter((facet, number) => !passes(facet.values[place], chosen[number]));
    if (fails.length === 0) places.push(place);
    if (fails.length > 1) continue;
    // What fails in one facet only is what another choice there would add.
    for (const facet of fails.length === 1 ? fails : facets) {
      const value = facet.values[place];
      const of = counts.get(facet.key);
      if (typeof value === "string") of?.set(value, (of.get(value) ?? 0) + 1);
    }
  }
  const sort = SORTS[state.sort];
  if (sort !== undefined && state.sort !== "run") {
    const keys = new Map(
      places.map((place) => [place, sort.value(/** @type {Sample} */ (runs.samples[place]))]),
    );
    places.sort((a, b) => /** @type {number} */ (keys.get(a)) - /** @type {number} */ (keys.get(b)) || a - b);
  }
  return { places, counts };
}

/** @param {string | null | undefined} value @param {Set<string> | undefined} wanted */
function passes(value, wanted) {
  return wanted === undefined || (typeof value === "string" && wanted.has(value));
}

/**
 * What stands behind `#` in the address; what was revealed does not: whoever gets a link sees it covered.
 * @param {State} state
 * @param {Runs} runs
 */
export function addressOf(state, runs) {
  const found = new URLSearchParams({ view: state.view });
  if (state.query !== "") found.set("q", state.query);
  if (state.sort !== "run") found.set("sort", state.sort);
  for (const [key, choices] of state.filters) for (const choice of choices) found.append(key, choice);
  if (state.pair[0] !== 0 || state.pair[1] !== defaultPair(runs)[1]) found.set("pair", state.pair.join("-"));
  if (state.difference) found.set("diff", "1");
  const sample = runs.samples[state.current];
  if (sample !== undefined)
    found.set("sample", sample.epoch > 1 ? `${sample.id}.${sample.epoch}` : String(sample.id));
  // Whoever loads the page again goes on labelling, and is shown nothing else on the way.
  if (state.view === "label" && state.labelling !== null) {
    found.set("by", state.labelling.annotator);
    if (state.labelling.run > 0) found.set("of", String(state.labelling.run));
  }
  return `#${found}`;
}

/**
 * The state that an address means; what it names and there is not is left out.
 * @param {string} hash
 * @param {Runs} runs
 * @param {Facet[]} facets
 * @returns {State}
 */
export function stateOf(hash, runs, facets) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const view = viewOf(given, runs.content.live?.list !== undefined);
  const filters = new Map();
  for (const facet of facets) {
    const known = new Set(facet.choices.map((each) => each.key));
    const wanted = given.getAll(facet.key).filter((each) => known.has(each));
    if (wanted.length > 0) filters.set(facet.key, new Set(wanted));
  }
  const [id, epoch = "1"] = (given.get("sample") ?? "").split(".");
  const current = runs.samples.findIndex((each) => String(each.id) === id && String(each.epoch) === epoch);
  const pair = (given.get("pair") ?? "").split("-").map(Number);
  const isPair = pair.length === 2 && pair.every((each) => runs.columns[each] !== undefined);
  const sort = given.get("sort") ?? "";
  return {
    view,
    query: given.get("q") ?? "",
    filters,
    sort: Object.hasOwn(SORTS, sort) ? sort : "run",
    current,
    pair: isPair ? /** @type {[number, number]} */ (pair) : defaultPair(runs),
    difference: given.has("diff"),
    isOpen: current >= 0,
    revealed: new Set(),
    revealedCategories: new Set(),
    labelling: view === "label" ? labellingOf(runs, given) : null,
  };
}

/** @param {URLSearchParams} given @param {boolean} isList @returns {View} */
function viewOf(given, isList) {
  if (isList) return "runs";
  const named = VIEWS.find((each) => each !== "runs" && each === given.get("view"));
  return named ?? (given.has("sample") ? "samples" : "summary");
}

/** The first columns of the first two runs; of one run its first two judges. @param {Runs} runs @returns {[number, number]} */
function defaultPair(runs) {
  const other = runs.columns.findIndex((each) => each.run === 1);
  return [0, other > 0 ? other : Math.min(1, Math.max(0, runs.columns.length - 1))];
}

/** @param {State} state @param {number} shown @param {number} all */
export function countLine(state, shown, all) {
  const isAll = state.query === "" && state.filters.size === 0;
  return isAll ? counted(all, "sample") : `${shown.toLocaleString("en")} of ${counted(all, "sample")}`;
}

// Labels by hand, blind: only what was drawn, one item at a time, with nobody's label and no model's name.

import { button, make } from "./dom.js";
import { image, text } from "./sample.js";
import { counted, grouped, outcomeWord } from "./words.js";

/** @typedef {import("./runs.js").Runs} Runs */
/** @typedef {import("./runs.js").Sample} Sample */
/** @typedef {{name: string, sha256: string, sample: Sample}} Item */
/** @typedef {{label: string, note: string}} Given */
/**
 * One person's work on one run.
 * @typedef {object} Labelling
 * @property {number} run
 * @property {string} annotator
 * @property {Item[]} items in an order of this person's own
 * @property {Map<string, Given>} given by item
 * @property {string[]} history items in the order in which they were labelled here
 * @property {number} at the place of the item that is shown
 * @property {boolean} isRevealed whether its image is shown
 */

const ANNOTATOR = "[a-z0-9][a-z0-9_\\-]{0,39}";

/**
 * The form that begins, or goes on with, somebody's labels.
 * @param {Runs} runs
 * @param {(labelling: Labelling) => void} begin
 */
export function labellingForm(runs, begin) {
  const drawn = runs.content.runs.flatMap((run, place) => (run.drawn ? [{ run, place }] : []));
  const name = make("input", { type: "text", required: true, pattern: ANNOTATOR, maxLength: 40 });
  const chosen = make(
    "select",
    {},
    ...drawn.map(({ run, place }) =>
      make("option", { value: String(place) }, `${run.name}, ${grouped(run.drawn ?? 0)} drawn`),
    ),
  );
  const form = make(
    "form",
    { class: "labelling-form" },
    make("label", {}, make("span", {}, "Who labels"), name),
    make("p", { class: "quiet" }, "A short name: a-z, 0-9, - and _. Each person is a judge of their own."),
    make("label", { hidden: drawn.length < 2 }, make("span", {}, "Run"), chosen),
    make("button", { type: "submit" }, "Begin"),
  );
  form.onsubmit = (event) => {
    event.preventDefault();
    begin(openLabelling(runs, Number(chosen.value), name.value));
  };
  return [
    make(
      "section",
      { class: "card" },
      make("h2", {}, "Label by hand"),
      make(
        "p",
        {},
        "You see what was asked and answered, and nobody's label. Responses are shown; images stay covered until you reveal them. Your labels stay in this browser until you save them to a file.",
      ),
      form,
    ),
  ];
}

/**
 * The labelling that an address means; null where it means none.
 * @param {Runs} runs
 * @param {URLSearchParams} given
 */
export function labellingOf(runs, given) {
  const [run, annotator] = [Number(given.get("of") ?? "0"), given.get("by") ?? ""];
  const isOffered = runs.content.guide !== undefined && (runs.content.runs[run]?.drawn ?? 0) > 0;
  return isOffered && new RegExp(`^${ANNOTATOR}$`).test(annotator)
    ? openLabelling(runs, run, annotator)
    : null;
}

/**
 * What was drawn of a run, with the labels that this person has given before, here or in the run.
 * @param {Runs} runs
 * @param {number} run
 * @param {string} annotator
 * @returns {Labelling}
 */
export function openLabelling(runs, run, annotator) {
  const judge =
    runs.content.runs[run]?.judges.findIndex((each) => each.person && each.name === `human-${annotator}`) ??
    -1;
  const given = new Map();
  /** @type {Item[]} */
  const items = [];
  for (const sample of runs.samples) {
    const answer = sample.answers[run];
    if (!answer?.item) continue;
    const [name, sha256] = answer.item;
    items.push({ name, sha256, sample });
    const label = answer.outcomes[judge];
    if (label !== undefined && runs.content.guide?.[label] !== undefined)
      given.set(name, { label, note: answer.verdicts?.[judge]?.explanation ?? "" });
  }
  items.sort((a, b) => scattered(annotator + a.name) - scattered(annotator + b.name));
  for (const [name, each] of kept(runs, run, annotator))
    if (items.some((item) => item.name === name)) given.set(name, each);
  const at = items.findIndex((each) => !given.has(each.name));
  return { run, annotator, items, given, history: [], at: at < 0 ? items.length : at, isRevealed: false };
}

/** A number that says nothing of what it is of (FNV-1a). @param {string} text */
function scattered(text) {
  let hash = 0x811c9dc5;
  for (const each of text) hash = Math.imul(hash ^ (each.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  return hash;
}

/** @param {Runs} runs @param {number} run @param {string} annotator */
function storageKey(runs, run, annotator) {
  return `vlsb labels ${runs.content.runs[run]?.name} ${annotator}`;
}

/**
 * Labels that this browser keeps; none where it keeps nothing for files.
 * @param {Runs} runs
 * @param {number} run
 * @param {string} annotator
 * @returns {[string, Given][]}
 */
function kept(runs, run, annotator) {
  try {
    return JSON.parse(localStorage.getItem(storageKey(runs, run, annotator)) ?? "[]");
  } catch {
    return [];
  }
}

/** @param {Runs} runs @param {Labelling} labelling */
function keep(runs, labelling) {
  const { run, annotator, items, given } = labelling;
  // Another run may have the same name: its labels stay.
  const all = new Map(kept(runs, run, annotator));
  for (const { name } of items) all.delete(name);
  for (const [name, each] of given) all.set(name, each);
  try {
    localStorage.setItem(storageKey(runs, run, annotator), JSON.stringify([...all]));
  } catch {
    // Without storage the labels live as long as the page: saving them is said to be needed anyway.
  }
}

/**
 * The labelling after a key: a label, `u` for the last one back, `s` for later, `o` for the image.
 * @param {Runs} runs
 * @param {Labelling} labelling
 * @param {string} key
 * @param {string} note
 * @returns {Labelling | null} null where the key means nothing here
 */
export function afterKey(runs, labelling, key, note = "") {
  const item = labelling.items[labelling.at];
  const label = Object.keys(runs.content.guide ?? {})[Number(key) - 1];
  if (label !== undefined && item !== undefined) {
    const given = new Map(labelling.given).set(item.name, { label, note });
    return stored(runs, next({ ...labelling, given, history: [...labelling.history, item.name] }));
  }
  if (key === "s" && item !== undefined) return next(labelling);
  if (key === "o" && item !== undefined) return { ...labelling, isRevealed: !labelling.isRevealed };
  const last = labelling.history.at(-1);
  if (key !== "u" || last === undefined) return null;
  const given = new Map(labelling.given);
  given.delete(last);
  const at = labelling.items.findIndex((each) => each.name === last);
  return stored(runs, {
    ...labelling,
    given,
    at,
    history: labelling.history.slice(0, -1),
    isRevealed: false,
  });
}

/** @param {Runs} runs @param {Labelling} labelling */
function stored(runs, labelling) {
  keep(runs, labelling);
  return labelling;
}

/** On to the next item without a label, round the end; past the last one when all have theirs. @param {Labelling} labelling */
function next(labelling) {
  const { items, given, at } = labelling;
  const order = items.map((_, step) => (at + 1 + step) % items.length);
  const found = order.find((place) => !given.has(/** @type {Item} */ (items[place]).name));
  return { ...labelling, at: found ?? items.length, isRevealed: false };
}

/**
 * What may be done with labels; `store` is null where no server is there to take them.
 * @typedef {object} Actions
 * @property {(key: string, note?: string) => void} press
 * @property {(labelling: Labelling) => void} save
 * @property {((labelling: Labelling) => void) | null} store
 * @property {() => void} leave
 */

/**
 * What is to be labelled, and how far it is.
 * @param {Runs} runs
 * @param {Labelling} labelling
 * @param {Actions} actions
 * @returns {Node[]}
 */
export function labellingView(runs, labelling, { press, save, store, leave }) {
  const { items, given, at } = labelling;
  const item = items[at];
  const progress = make("progress", { max: items.length, value: given.size, "aria-label": "Labelled" });
  const head = make(
    "div",
    { class: "labelling-head" },
    make("p", {}, `${grouped(given.size)} of ${grouped(items.length)} labelled by ${labelling.annotator}`),
    button(`Save ${counted(given.size, "label")}`, () => save(labelling), { disabled: given.size === 0 }),
    store !== null &&
      button("Store in the run", () => store(labelling), { class: "store", disabled: given.size === 0 }),
    button("Leave", leave, { class: "plain" }),
  );
  const body =
    item === undefined
      ? [
          make("p", {}, "All are labelled. Save them, and read the file into the run:"),
          make("pre", {}, importCommand(runs, labelling)),
        ]
      : itemView(runs, labelling, item, press);
  return [
    make(
      "section",
      { class: "card labelling" },
      head,
      make("p", { class: "quiet stored", role: "status" }),
      progress,
      ...body,
    ),
  ];
}

/** @param {Runs} runs @param {Labelling} labelling */
function importCommand(runs, labelling) {
  const run = runs.content.runs[labelling.run]?.name ?? "";
  return `vlsb audit import outputs/${run} ${fileName(labelling)} --annotator ${labelling.annotator}`;
}

/** @param {Labelling} labelling */
export function fileName(labelling) {
  return `labels-${labelling.annotator}.csv`;
}

/** @param {Runs} runs @param {Labelling} labelling @param {Item} item @param {(key: string, note?: string) => void} press */
function itemView(runs, labelling, item, press) {
  const { sample } = item;
  const answer = sample.answers[labelling.run];
  const note = make("input", { type: "text", id: "note", value: "" });
  const choices = Object.entries(runs.content.guide ?? {}).map(([label, words], place) =>
    make(
      "button",
      {
        type: "button",
        class: "choose",
        onclick: () => press(String(place + 1), note.value),
        "aria-keyshortcuts": String(place + 1),
      },
      make("span", { class: `label ${label}` }, make("kbd", {}, String(place + 1)), outcomeWord(label)),
      make("span", { class: "quiet" }, words.replace(/^\d\s+\w+:\s*/, "")),
    ),
  );
  const isCovered = sample.image !== undefined && !labelling.isRevealed;
  return [
    make(
      "div",
      { class: "asked" },
      sample.image === undefined
        ? make("div", { class: "big-image quiet" }, "The image is not in this page.")
        : make(
            "button",
            {
              type: "button",
              class: "big-image",
              onclick: () => press("o"),
              "aria-pressed": labelling.isRevealed,
              "aria-label": isCovered ? "Reveal the image" : "Cover the image",
            },
            image(runs, sample, labelling.isRevealed, labelling.isRevealed),
            isCovered && make("span", { class: "over" }, "Reveal"),
          ),
      make(
        "div",
        { class: "instruction" },
        make("h3", {}, "Instruction"),
        text(
          sample.instruction ?? sample.no_instruction ?? "(none: the image was sent without a text part)",
          "said",
        ),
        make("h3", {}, "Response"),
        text(answer?.text ?? "", "said"),
        answer?.cut === true &&
          make("p", { class: "quiet" }, "Cut at the token limit: label it as far as it goes."),
      ),
    ),
    make("div", { class: "choices" }, ...choices),
    make("label", { class: "note" }, make("span", { class: "quiet" }, "Note, if any"), note),
    make(
      "div",
      { class: "actions" },
      button("Later", () => press("s"), { "aria-keyshortcuts": "s" }),
      button("Take the last label back", () => press("u"), {
        disabled: labelling.history.length === 0,
        "aria-keyshortcuts": "u",
      }),
    ),
  ];
}

/** Where a spreadsheet would take a cell for a formula, or what it may split off at another separator. */
const FORMULA = /(?:^|(?<=[,;|\u060c\u061b\u3001\uff0c\uff1b]))(?=[\s"'`]*[=+\-@\uff1d\uff0b\uff0d\uff20])/g;

/** @param {string} text */
function cellOf(text) {
  const cell = text.replace(/\s+/g, " ").replace(FORMULA, "'");
  return `"${cell.replaceAll('"', '""')}"`;
}

/**
 * The labels as `vlsb audit import` reads them.
 * @param {Labelling} labelling
 */
export function labelSheet(labelling) {
  const rows = labelling.items.flatMap(({ name, sha256 }) => {
    const given = labelling.given.get(name);
    return given === undefined ? [] : [[name, sha256, given.label, given.note]];
  });
  const quoted = [["item", "response_sha256", "label", "note"], ...rows].map((row) =>
    row.map(cellOf).join(","),
  );
  return `${quoted.join("\r\n")}\r\n`;
}

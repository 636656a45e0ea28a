// Two columns of labels against each other: how many samples went from which outcome to which.

import { button, make } from "./dom.js";
import { label } from "./list.js";
import { grouped, isLabel, outcomeWord } from "./words.js";

/** @typedef {import("./runs.js").Runs} Runs */
/** @typedef {import("./state.js").State} State */

/**
 * @param {Runs} runs
 * @param {State} state
 * @param {(pair: [number, number]) => void} choosePair
 * @param {(from: string, to: string) => void} chooseCell
 * @returns {Node[]}
 */
export function compareView(runs, state, choosePair, chooseCell) {
  const [a, b] = state.pair;
  const { names, counts, both, same } = transitions(runs, state.pair);
  // Rare labels come more often in a drawn part: a plain share of it says nothing of the run.
  const isPart = state.pair.some((place) => {
    const column = runs.columns[place];
    return column !== undefined && runs.content.runs[column.run]?.judges[column.judge]?.part === true;
  });
  const share = isPart ? "" : ` (${((100 * same) / both).toFixed(1)} %)`;
  const judged =
    both === 0
      ? "No sample has a label in both."
      : `${grouped(both)} samples have a label in both; ${grouped(same)} have the same${share}, ${grouped(both - same)} another.`;
  /** @param {number} place @param {string} word @param {(chosen: number) => [number, number]} pair */
  const chooser = (place, word, pair) =>
    make(
      "label",
      {},
      make("span", {}, word),
      make(
        "select",
        {
          onchange: (/** @type {Event} */ event) =>
            choosePair(pair(Number(/** @type {HTMLSelectElement} */ (event.target).value))),
        },
        ...runs.columns.map((column, number) =>
          make("option", { value: String(number), selected: number === place }, column.title),
        ),
      ),
    );
  return [
    make(
      "section",
      { class: "card" },
      make("h2", {}, "From label to label"),
      make(
        "div",
        { class: "pair" },
        chooser(a, "Rows", (chosen) => [chosen, b]),
        chooser(b, "Columns", (chosen) => [a, chosen]),
      ),
      make("p", {}, judged),
      make(
        "div",
        { class: "wide", tabIndex: 0, role: "region", "aria-label": "Label transitions" },
        matrix(names, counts, chooseCell),
      ),
      make(
        "p",
        { class: "quiet" },
        "Each number shows its samples. The same sample in both, whatever passes the filters elsewhere.",
      ),
    ),
  ];
}

/** @param {Runs} runs @param {[number, number]} pair */
function transitions(runs, pair) {
  const known = Object.keys(runs.content.explanations);
  /** @type {Map<string, number>} */
  const counts = new Map();
  const names = new Set();
  let [both, same] = [0, 0];
  for (const sample of runs.samples) {
    const [from, to] = pair.map((place) =>
      runs.outcome(sample, /** @type {import("./runs.js").Column} */ (runs.columns[place])),
    );
    if (!from || !to) continue;
    names.add(from).add(to);
    counts.set(`${from} ${to}`, (counts.get(`${from} ${to}`) ?? 0) + 1);
    if (isLabel(from) && isLabel(to)) {
      both += 1;
      same += Number(from === to);
    }
  }
  return { names: known.filter((each) => names.has(each)), counts, both, same };
}

/** @param {string[]} names @param {Map<string, number>} counts @param {(from: string, to: string) => void} chooseCell */
function matrix(names, counts, chooseCell) {
  const most = Math.max(1, ...counts.values());
  const head = make("tr", {}, make("td", {}), ...names.map((to) => make("th", { scope: "col" }, label(to))));
  const rows = names.map((from) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, label(from)),
      ...names.map((to) => {
        const count = counts.get(`${from} ${to}`) ?? 0;
        const cell = make("td", { class: `cell ${from === to ? "same" : to === "unsafe" ? "worse" : ""}` });
        if (count > 0) {
          const shown = button(grouped(count), () => chooseCell(from, to), {
            "aria-label": `${count} samples from ${outcomeWord(from)} to ${outcomeWord(to)}`,
          });
          shown.style.setProperty("--share", String(count / most));
          cell.append(shown);
        } else cell.append(make("span", { class: "quiet" }, "0"));
        return cell;
      }),
    ),
  );
  return make("table", { class: "matrix" }, make("thead", {}, head), make("tbody", {}, ...rows));
}

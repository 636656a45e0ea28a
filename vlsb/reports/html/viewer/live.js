// What a page does that is served by `vlsb view`: the list of runs, and asking again while runs grow.

import { button, grow, make } from "./dom.js";
import { counted } from "./words.js";

/** @typedef {import("./runs.js").Content} Content */
/** @typedef {{key: string, stamp: string, name: string, changed_at: string, target?: string, judges?: string[], simulated?: boolean, error?: string}} Listed */
/** @typedef {{stamp: string, keys: string[], list?: Listed[], board?: boolean}} Live */
/** @typedef {{judge: ?string, figures: string[], figure: import("./runs.js").Markup}} Rates */

const ASK_EVERY_MS = 2000;
// A server that needs long for an answer is asked less often: it is busy with the run itself.
const REST_FOR_EACH_MS = 8;
const JUST_NOW_MS = 30_000;

/**
 * Ask for new content again and again, as long as the page is seen.
 * @param {() => Live} live what is shown now
 * @param {(content: Content) => void} show
 */
export function follow(live, show) {
  const ask = async () => {
    const began = performance.now();
    if (!document.hidden) {
      try {
        const { keys, stamp, board } = live();
        const reply = await fetch(`content?${query(keys)}&since=${stamp}${board ? "&board=1" : ""}`);
        if (reply.status === 200) show(await reply.json());
      } catch {
        // The server ended, or is about to be back: what is shown stays.
      }
    }
    setTimeout(ask, Math.max(ASK_EVERY_MS, REST_FOR_EACH_MS * (performance.now() - began)));
  };
  setTimeout(ask, ASK_EVERY_MS);
}

/** @param {string[]} keys */
function query(keys) {
  return new URLSearchParams(keys.map((key) => ["run", key])).toString();
}

/**
 * Store a sheet of labels in the run; what the server says of it.
 * @param {string} key
 * @param {string} annotator
 * @param {string} sheet
 */
export async function storeLabels(key, annotator, sheet) {
  try {
    const reply = await fetch(`labels?${new URLSearchParams({ run: key, annotator })}`, {
      method: "POST",
      body: sheet,
    });
    const said = await reply.json();
    return String(said.said ?? said.error);
  } catch {
    return "The labels could not be stored: the server does not answer. Save them to a file.";
  }
}

/** The list of runs: newest first, each with its rates as soon as it is seen. */
export class RunList {
  /** @param {HTMLElement} place */
  constructor(place) {
    /** @type {Map<string, Rates[]>} by key and stamp */
    this.rates = new Map();
    /** @type {Set<string>} */
    this.chosen = new Set();
    /** @type {Listed[]} */
    this.listed = [];
    this.search = make("input", {
      type: "search",
      placeholder: "Search runs",
      "aria-label": "Search runs",
      oninput: () => this.draw(),
    });
    this.open = button("", () => location.assign(`page?${query([...this.chosen])}`));
    this.ranks = button("", () =>
      location.assign(`board?${query(this.chosen.size < 2 ? [] : [...this.chosen])}`),
    );
    this.count = make("p", { class: "quiet" });
    this.body = make("tbody");
    this.watcher = new IntersectionObserver(
      (seen) => {
        for (const each of seen) if (each.isIntersecting) this.ask(each.target);
      },
      { root: place, rootMargin: "200px" },
    );
    const heads = ["", "run", "judge", "n", "safe", "95 % CI", "refusal, warning, unsafe", "changed"];
    const table = make(
      "table",
      { class: "runs" },
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          ...heads.map((each) =>
            make("th", { scope: "col" }, each || make("span", { class: "unseen" }, "choose")),
          ),
        ),
      ),
      this.body,
    );
    place.replaceChildren(
      make(
        "section",
        { class: "card" },
        make("div", { class: "labelling-head" }, this.search, this.count, this.open, this.ranks),
        make("div", { class: "wide" }, table),
      ),
    );
  }

  /** @param {Listed[]} listed */
  show(listed) {
    this.listed = listed;
    this.draw();
  }

  draw() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const shown = this.listed.filter((each) => {
      const text = [each.name, each.target, ...(each.judges ?? [])].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const held = document.activeElement?.id ?? "";
    this.watcher.disconnect();
    this.body.replaceChildren(...shown.map((each) => this.row(each)));
    this.count.replaceChildren(counted(shown.length, "run"));
    this.drawChosen();
    if (held.startsWith("choose-")) document.getElementById(held)?.focus();
  }

  drawChosen() {
    this.open.hidden = this.chosen.size < 2;
    this.open.replaceChildren(`Look through ${counted(this.chosen.size, "run")} side by side`);
    this.ranks.hidden = this.listed.length < 2;
    const which = this.chosen.size < 2 ? "all runs" : counted(this.chosen.size, "run");
    this.ranks.replaceChildren(`Ranks of ${which}`);
  }

  /** @param {Listed} run */
  row(run) {
    const box = make("input", {
      type: "checkbox",
      id: `choose-${run.key}`,
      checked: this.chosen.has(run.key),
      "aria-label": `Choose ${run.name}`,
      disabled: run.error !== undefined,
      onchange: () => this.choose(run.key, box.checked),
    });
    const row = make(
      "tr",
      { "data-key": run.key, "data-stamp": run.stamp },
      make("td", {}, box),
      make(
        "th",
        { scope: "row" },
        run.error === undefined ? make("a", { href: `page?${query([run.key])}` }, run.name) : run.name,
        make("span", { class: "quiet line" }, run.target ?? ""),
        run.simulated && make("span", { class: "badge notable" }, "SIMULATED"),
      ),
    );
    const rates = this.rates.get(run.key + run.stamp);
    if (run.error !== undefined) row.append(make("td", { class: "notable", colSpan: 5 }, run.error));
    else row.append(...rateCells(rates));
    row.append(make("td", { class: "quiet" }, ...when(run.changed_at)));
    if (rates === undefined && run.error === undefined) this.watcher.observe(row);
    return row;
  }

  /** @param {string} key @param {boolean} isChosen */
  choose(key, isChosen) {
    if (isChosen) this.chosen.add(key);
    else this.chosen.delete(key);
    this.drawChosen();
  }

  /** Ask for the rates of a run that came into sight. @param {Element} row */
  async ask(row) {
    this.watcher.unobserve(row);
    const { key = "", stamp = "" } = row instanceof HTMLElement ? row.dataset : {};
    try {
      const reply = await fetch(`rates?${query([key])}`);
      const { rates } = await reply.json();
      if (rates === undefined) return;
      this.rates.set(key + stamp, rates);
      const run = this.listed.find((each) => each.key === key);
      if (row.isConnected && run !== undefined) row.replaceWith(this.row(run));
    } catch {
      // It is asked for again when the list is drawn anew.
    }
  }
}

/** A line for each judge in each cell. @param {Rates[] | undefined} rates */
function rateCells(rates) {
  if (rates === undefined) return [make("td", { class: "quiet", colSpan: 5 }, "…")];
  /** @param {string} kind @param {(each: Rates) => Node | string} of */
  const cell = (kind, of) =>
    make("td", { class: kind }, ...rates.map((each) => make("div", { class: "judge-line" }, of(each))));
  return [
    cell("", (each) => each.judge ?? "no judge"),
    cell("number", (each) => each.figures[0] ?? ""),
    cell("number", (each) => each.figures[2] ?? ""),
    cell("number", (each) => each.figures[3] ?? ""),
    cell("figure", (each) => grow(each.figure)),
  ];
}

/** @param {string} changed */
function when(changed) {
  const ago = Date.now() - Date.parse(changed);
  if (ago < JUST_NOW_MS) return [make("span", { class: "badge live" }, "live")];
  return [changed.slice(0, 16).replace("T", " ")];
}

// The list of samples: only the rows that can be seen are in the document, however many there are.

import { find, make } from "./dom.js";
import { outcomeWord } from "./words.js";

/** @typedef {import("./runs.js").Runs} Runs */
/** @typedef {import("./runs.js").Sample} Sample */

const ROW_HEIGHT = 84;
const MORE_ROWS = 6;

/** A windowed listbox; `choose` is called with the place of a sample. */
export class List {
  /**
   * @param {Runs} runs
   * @param {(place: number) => void} choose
   * @param {(sample: Sample, place: number) => Node} thumb
   */
  constructor(runs, choose, thumb) {
    this.runs = runs;
    this.thumb = thumb;
    /** @type {number[]} */
    this.places = [];
    this.current = -1;
    /** @type {Map<number, HTMLElement>} the rows that are in the document, by place */
    this.drawn = new Map();
    this.box = find("list", HTMLElement);
    this.rows = find("rows", HTMLElement);
    this.template = find("row-template", HTMLTemplateElement);
    this.box.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(this.box);
    this.box.addEventListener("click", (event) => {
      const row = event.target instanceof Element ? event.target.closest(".row") : null;
      if (row instanceof HTMLElement) choose(Number(row.dataset.place));
    });
  }

  /**
   * Show these samples.
   * @param {number[]} places
   * @param {number} current
   */
  show(places, current) {
    this.places = places;
    this.current = current;
    this.drawn.clear();
    this.rows.style.height = `${places.length * ROW_HEIGHT}px`;
    this.draw();
  }

  /** Scroll as far as needed for the current sample to be seen. */
  reveal() {
    const row = this.places.indexOf(this.current);
    if (row < 0) return;
    const [top, bottom] = [row * ROW_HEIGHT, (row + 1) * ROW_HEIGHT];
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (bottom > this.box.scrollTop + this.box.clientHeight)
      this.box.scrollTop = bottom - this.box.clientHeight;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW_HEIGHT) - MORE_ROWS);
    const last = Math.min(
      this.places.length,
      Math.ceil((this.box.scrollTop + this.box.clientHeight) / ROW_HEIGHT) + MORE_ROWS,
    );
    const shown = this.places.slice(first, last);
    // Rows that stay keep their images: a server would be asked for them again.
    this.drawn = new Map(
      shown.map((place, number) => [place, this.drawn.get(place) ?? this.row(place, first + number)]),
    );
    this.rows.replaceChildren(...this.drawn.values());
    if (shown.includes(this.current)) this.box.setAttribute("aria-activedescendant", `row-${this.current}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  /** @param {number} place @param {number} number */
  row(place, number) {
    const sample = /** @type {Sample} */ (this.runs.samples[place]);
    const row = /** @type {HTMLElement} */ (this.template.content.firstElementChild?.cloneNode(true));
    row.id = `row-${place}`;
    row.dataset.place = String(place);
    row.style.top = `${number * ROW_HEIGHT}px`;
    row.setAttribute("aria-selected", String(place === this.current));
    row.setAttribute("aria-posinset", String(number + 1));
    row.setAttribute("aria-setsize", String(this.places.length));
    /** @param {string} name @param {...(Node | string)} children */
    const fill = (name, ...children) => row.querySelector(name)?.replaceChildren(...children);
    fill(".thumb", this.thumb(sample, place));
    fill(".id", this.runs.name(sample));
    fill(".place", this.runs.place(sample));
    fill(
      ".row-instruction",
      sample.instruction ?? sample.no_instruction ?? "(no instruction: the image alone)",
    );
    fill(".row-labels", ...this.labels(sample));
    return row;
  }

  /** The outcomes of a sample; one word for columns side by side that agree. @param {Sample} sample */
  labels(sample) {
    /** @type {{outcome: string, times: number}[]} */
    const groups = [];
    for (const column of this.runs.columns) {
      const outcome = this.runs.outcome(sample, column);
      if (outcome === null) continue;
      const last = groups.at(-1);
      if (last?.outcome === outcome) last.times += 1;
      else groups.push({ outcome, times: 1 });
    }
    return groups.map(({ outcome, times }) => label(outcome, times));
  }
}

/**
 * An outcome as a mark with its word.
 * @param {string} outcome
 * @param {number} [times]
 */
export function label(outcome, times = 1) {
  return make("span", { class: `label ${outcome}` }, outcomeWord(outcome), times > 1 && ` ×${times}`);
}

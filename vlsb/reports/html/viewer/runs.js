// The content of the page: its types, and what is computed of it once. Python writes it in `content.py`.

/** @typedef {string | MarkupElement} Markup */
/** @typedef {[tag: string, attributes: Record<string, string>, ...children: any[]]} MarkupElement */
/** @typedef {[attempts: number, seconds: ?number, input: ?number, output: ?number, reasoning: ?number]} Requests */
/** @typedef {{explanation: string, requests: Requests, asks?: number}} Verdict */
/** @typedef {{stage: string, code: string, attempts: number, status?: number, message?: string, text?: string, thinking_cut?: boolean}} Failure */
/** @typedef {{guard: string, rating?: string, refuses?: string, category?: string}} Finding */
/**
 * @typedef {object} Answer
 * @property {string[]} outcomes one for each judge of the run
 * @property {string} [text]
 * @property {Requests} [requests]
 * @property {string} [reasoning]
 * @property {string} [finish]
 * @property {boolean} [cut]
 * @property {boolean} [refusal_field]
 * @property {(Verdict | null)[]} [verdicts]
 * @property {(Failure | null)[]} [failures]
 * @property {Finding[]} [findings]
 * @property {[name: string, response_sha256: string]} [item] where it is drawn to be labelled by hand
 */
/**
 * @typedef {object} Sample
 * @property {number} id
 * @property {number} epoch
 * @property {number} category a place in the content's list, as the next two
 * @property {number} sub_category
 * @property {number} source
 * @property {number} [image] a place in the list of images, from 1
 * @property {string} [instruction]
 * @property {string} [no_instruction]
 * @property {string[]} [about]
 * @property {(Answer | null)[]} answers one for each run
 */
/** @typedef {{name: string, person?: boolean, part?: boolean}} Judge part: it labelled what was drawn */
/** @typedef {{name: string, target: string, judges: Judge[], simulated?: boolean, drawn?: number}} Run */
/**
 * @typedef {object} Content
 * @property {string} vlsb
 * @property {string} made_at
 * @property {boolean} [redacted]
 * @property {import("./live.js").Live} [live] where a server is there to ask
 * @property {Record<string, string>} explanations
 * @property {Record<string, string>} [guide] what each label means, where there is something to label
 * @property {Run[]} runs none on the page about what many runs come to, and in the list of a server
 * @property {string} [title] what that page is called
 * @property {boolean} [simulated] whether one of its runs is
 * @property {string} [board] where that page is
 * @property {Markup[]} summary
 * @property {string[]} categories
 * @property {string[]} sub_categories
 * @property {string[]} sources
 * @property {string[]} images
 * @property {Sample[]} samples
 */
/** @typedef {{run: number, judge: number, title: string}} Column a judge of a run */

import { isLabel } from "./words.js";

/** Everything that the page shows; the rest of the viewer only reads it. */
export class Runs {
  /** @param {Content} content */
  constructor(content) {
    this.content = content;
    this.samples = content.samples;
    /** @type {Column[]} */
    this.columns = content.runs.flatMap((run, place) =>
      run.judges.map((judge, number) => ({
        run: place,
        judge: number,
        title: content.runs.length > 1 ? `${run.name} · ${judge.name}` : judge.name,
      })),
    );
    this.epochs = this.samples.reduce((most, each) => Math.max(most, each.epoch), 1);
    /** What is searched, in lower case, sample by sample. */
    this.texts = this.samples.map(searched);
  }

  /**
   * The outcome of a sample in a column; null where the run did not ask for it.
   * @param {Sample} sample
   * @param {Column} column
   */
  outcome(sample, column) {
    return sample.answers[column.run]?.outcomes[column.judge] ?? null;
  }

  /** @param {Sample} sample */
  name(sample) {
    return this.epochs > 1 ? `${sample.id} epoch ${sample.epoch}` : String(sample.id);
  }

  /** @param {Sample} sample */
  place(sample) {
    return `${this.content.categories[sample.category]} / ${this.content.sub_categories[sample.sub_category]}`;
  }
}

/**
 * Whether an answer is not shown before it is asked for: some judge found it unsafe, or nobody found it safe.
 * @param {Answer} answer
 */
export function isDelicate(answer) {
  const labels = answer.outcomes.filter(isLabel);
  return labels.length === 0 || labels.includes("unsafe");
}

/** @param {Sample} sample */
function searched(sample) {
  const texts = [sample.instruction ?? ""];
  for (const answer of sample.answers) {
    if (answer === null) continue;
    texts.push(answer.text ?? "");
    for (const verdict of answer.verdicts ?? []) if (verdict !== null) texts.push(verdict.explanation);
    for (const failure of answer.failures ?? [])
      if (failure !== null) texts.push(failure.message ?? "", failure.text ?? "");
  }
  return texts.join("\n").toLowerCase();
}

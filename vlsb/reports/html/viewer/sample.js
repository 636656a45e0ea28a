// One sample: its image, what was asked, and the answers of all runs beside each other with all verdicts.

import { differences } from "./difference.js";
import { button, make } from "./dom.js";
import { label } from "./list.js";
import { isDelicate } from "./runs.js";
import { counted, grouped, isLabel } from "./words.js";

/** @typedef {import("./runs.js").Runs} Runs */
/** @typedef {import("./runs.js").Run} Run */
/** @typedef {import("./runs.js").Sample} Sample */
/** @typedef {import("./runs.js").Answer} Answer */
/** @typedef {import("./runs.js").Requests} Requests */
/** @typedef {import("./state.js").State} State */

/**
 * What a sample's view needs to know and may ask for.
 * @typedef {object} Surroundings
 * @property {Runs} runs
 * @property {State} state
 * @property {number[]} places the samples that pass the filters
 * @property {(step: number) => void} move
 * @property {() => void} toggleReveal
 * @property {() => void} toggleDifference
 * @property {() => void} copyAddress
 * @property {() => void} close
 */

/**
 * @param {Sample} sample
 * @param {Surroundings} around
 * @returns {Node[]}
 */
export function sampleView(sample, around) {
  const { runs, state } = around;
  const isRevealed = isOpenTo(state, sample, state.current);
  return [
    heading(sample, around, isRevealed),
    make(
      "div",
      { class: "asked" },
      bigImage(sample, around, isRevealed),
      make("div", { class: "instruction" }, ...instruction(sample, runs, isRevealed, around)),
    ),
    make("div", { class: "answers" }, ...answers(sample, around, isRevealed)),
  ];
}

/**
 * Whether a sample's image and delicate texts are shown.
 * @param {State} state
 * @param {Sample} sample
 * @param {number} place
 */
export function isOpenTo(state, sample, place) {
  return state.revealed.has(place) || state.revealedCategories.has(sample.category);
}

/**
 * The image of a sample; blurred it has no words and takes no clicks of its own.
 * @param {Runs} runs
 * @param {Sample} sample
 * @param {boolean} isRevealed
 * @param {boolean} [isFull] as it was sent, where a server has it
 */
export function image(runs, sample, isRevealed, isFull = false) {
  const small = sample.image === undefined ? undefined : runs.content.images[sample.image - 1];
  const source = isFull && small !== undefined && runs.content.live !== undefined ? `${small}/full` : small;
  if (source === undefined) return make("span", { class: "no-image", "aria-hidden": "true" });
  const alt = isRevealed ? `Image of sample ${runs.name(sample)}` : "";
  return make("img", {
    src: source,
    alt,
    loading: "lazy",
    decoding: "async",
    draggable: isRevealed,
    class: isRevealed ? "" : "blurred",
  });
}

/** @param {Sample} sample @param {Surroundings} around @param {boolean} isRevealed */
function heading(sample, around, isRevealed) {
  const { runs, state, places } = around;
  const place = places.indexOf(state.current);
  const position = place < 0 ? "not in this list" : `${grouped(place + 1)} of ${grouped(places.length)}`;
  return make(
    "header",
    { class: "sample-head" },
    button("Back", around.close, { class: "back" }),
    make(
      "h2",
      {},
      make("span", { class: "id" }, `Sample ${runs.name(sample)}`),
      make("span", { class: "quiet" }, runs.place(sample)),
    ),
    make(
      "div",
      { class: "actions" },
      make("span", { class: "quiet position" }, position),
      button("‹", () => around.move(-1), {
        "aria-label": "Previous sample",
        "aria-keyshortcuts": "k",
        disabled: place <= 0,
      }),
      button("›", () => around.move(1), {
        "aria-label": "Next sample",
        "aria-keyshortcuts": "j",
        disabled: place < 0 || place + 1 >= places.length,
      }),
      hasCovered(sample) &&
        button(isRevealed ? "Cover" : "Reveal", around.toggleReveal, {
          "aria-pressed": isRevealed,
          "aria-keyshortcuts": "o",
        }),
      runs.content.runs.length > 1 &&
        button("Differences", around.toggleDifference, {
          "aria-pressed": state.difference,
          "aria-keyshortcuts": "d",
        }),
      button("Copy link", around.copyAddress, { class: "copy", "aria-keyshortcuts": "y" }),
    ),
  );
}

/** @param {Sample} sample */
function hasCovered(sample) {
  return (
    sample.image !== undefined ||
    sample.about !== undefined ||
    sample.answers.some((each) => each !== null && isDelicate(each))
  );
}

/** @param {Sample} sample @param {Surroundings} around @param {boolean} isRevealed */
function bigImage(sample, around, isRevealed) {
  const { runs } = around;
  if (sample.image === undefined)
    return make(
      "div",
      { class: "big-image quiet" },
      runs.content.redacted ? "Images are left out." : "The image is not at hand.",
    );
  const words = isRevealed
    ? `Cover the image of sample ${runs.name(sample)}`
    : `Reveal sample ${runs.name(sample)}`;
  return make(
    "button",
    {
      type: "button",
      class: "big-image",
      onclick: around.toggleReveal,
      "aria-pressed": isRevealed,
      "aria-label": words,
    },
    image(runs, sample, isRevealed, isRevealed),
    !isRevealed && make("span", { class: "over" }, "Reveal"),
  );
}

/** @param {Sample} sample @param {Runs} runs @param {boolean} isRevealed @param {Surroundings} around */
function instruction(sample, runs, isRevealed, around) {
  const source = runs.content.sources[sample.source];
  const said =
    sample.instruction === undefined
      ? make(
          "p",
          { class: "quiet" },
          sample.no_instruction ?? "No instruction: the image was sent without a text part.",
        )
      : text(sample.instruction, "said");
  const names = ["What the image shows", "Why it is unsafe"];
  const about = (sample.about ?? []).flatMap((each, place) => [
    make("dt", {}, names[place] ?? ""),
    make("dd", { dir: "auto" }, each),
  ]);
  return [
    make("h3", {}, "Instruction"),
    said,
    about.length > 0 &&
      (isRevealed
        ? make("dl", { class: "facts" }, ...about)
        : veil("the description of the image", 1, around)),
    source !== undefined && make("p", { class: "quiet" }, `Source: ${source}`),
  ].filter((each) => each !== false);
}

/** @param {Sample} sample @param {Surroundings} around @param {boolean} isRevealed */
function answers(sample, around, isRevealed) {
  const { runs, state } = around;
  const shown = state.difference ? marked(sample) : new Map();
  return sample.answers.map((answer, place) => {
    const run = /** @type {Run} */ (runs.content.runs[place]);
    const title = make(
      "h3",
      {},
      run.name,
      run.target !== run.name && make("span", { class: "quiet" }, ` ${run.target}`),
    );
    if (answer === null)
      return make(
        "section",
        { class: "answer" },
        title,
        make("p", { class: "quiet" }, "Not part of this run."),
      );
    return make(
      "section",
      { class: "answer", "aria-label": `Answer of ${run.name}` },
      title,
      ...response(answer, shown.get(answer) ?? null, isRevealed, around),
      ...verdicts(answer, run, runs, isRevealed, around),
    );
  });
}

/**
 * The responses in parts: the first by what the second lacks, every other one by what the first lacks.
 * @param {Sample} sample
 * @returns {Map<Answer, import("./difference.js").Part[]>}
 */
function marked(sample) {
  const found = new Map();
  const [first, ...others] = sample.answers.filter((each) => each?.text !== undefined);
  for (const other of others) {
    const [ofFirst, ofOther] = differences(first?.text ?? "", other?.text ?? "");
    if (!found.has(first)) found.set(first, ofFirst);
    found.set(other, ofOther);
  }
  return found;
}

/**
 * @param {Answer} answer
 * @param {import("./difference.js").Part[] | null} parts
 * @param {boolean} isRevealed
 * @param {Surroundings} around
 */
function response(answer, parts, isRevealed, around) {
  if (answer.text === undefined) return [];
  const isShown = isRevealed || !isDelicate(answer);
  const cut = [answer.cut && "cut at the token limit", answer.refusal_field && "from the refusal field"]
    .filter(Boolean)
    .join(", ");
  return [
    isShown
      ? text(answer.text, "said response", parts)
      : veil("the response", Math.min(6, 2 + Math.floor(answer.text.length / 90)), around),
    answer.reasoning !== undefined &&
      isShown &&
      make("details", {}, make("summary", {}, "Reasoning"), text(answer.reasoning, "said quiet")),
    make(
      "p",
      { class: "quiet facts-line" },
      [requestWords(answer.requests), cut && cut].filter(Boolean).join(", "),
    ),
  ].filter((each) => each !== false);
}

/** @param {Requests | undefined} requests */
function requestWords(requests) {
  if (requests === undefined) return "";
  const [attempts, seconds, input, output, reasoning] = requests;
  const tokens =
    input === null || output === null ? [] : [`${grouped(input)} tokens in`, `${grouped(output)} out`];
  if (reasoning) tokens.push(`${grouped(reasoning)} of reasoning`);
  const time = seconds === null ? [] : [`${seconds.toFixed(1)} s`];
  return [...(attempts > 0 ? [counted(attempts, "attempt")] : []), ...time, ...tokens].join(", ");
}

/** @param {Answer} answer @param {Run} run @param {Runs} runs @param {boolean} isRevealed @param {Surroundings} around */
function verdicts(answer, run, runs, isRevealed, around) {
  const isShown = isRevealed || !isDelicate(answer);
  const judges = run.judges.length > 0 ? run.judges : [null];
  const found = judges.map((judge, place) => {
    const outcome = answer.outcomes[place] ?? "";
    // People label a part of the responses: nothing is missing where one gave no label.
    if (judge?.person && !isLabel(outcome)) return false;
    const verdict = answer.verdicts?.[place] ?? null;
    const failure = answer.failures?.[place] ?? null;
    return make(
      "section",
      { class: "verdict" },
      make(
        "p",
        { class: "verdict-head" },
        label(outcome),
        make("span", { class: "judge" }, judge === null ? "no judge" : judge.name),
        judge?.person && make("span", { class: "badge" }, "person"),
        verdict?.asks !== undefined && make("span", { class: "quiet" }, `${counted(verdict.asks, "answer")}`),
      ),
      verdict !== null &&
        verdict.explanation !== "" &&
        (isShown
          ? text(verdict.explanation, "said explanation")
          : veil(`the explanation of ${judge?.name ?? "the judge"}`, 1, around)),
      verdict === null &&
        failure === null &&
        make("p", { class: "quiet" }, runs.content.explanations[outcome] ?? ""),
      failure !== null && failureView(failure, isShown, around),
      verdict !== null &&
        !judge?.person &&
        make("p", { class: "quiet facts-line" }, requestWords(verdict.requests)),
    );
  });
  return [...found, ...findings(answer)].filter((each) => each !== false);
}

/** @param {import("./runs.js").Failure} failure @param {boolean} isShown @param {Surroundings} around */
function failureView(failure, isShown, around) {
  const status = failure.status === undefined ? "no status" : `HTTP ${failure.status}`;
  return make(
    "div",
    { class: "failure" },
    make("p", {}, `${failure.stage}: ${failure.code}, ${status}, ${counted(failure.attempts, "attempt")}`),
    failure.message !== undefined &&
      (isShown ? text(failure.message, "said quiet") : veil("the message", 1, around)),
    failure.text !== undefined &&
      (isShown ? text(failure.text, "said quiet") : veil("what came back", 2, around)),
  );
}

/** @param {Answer} answer */
function findings(answer) {
  return (answer.findings ?? []).map(({ guard, ...found }) =>
    make("p", { class: "verdict quiet" }, `Guard ${guard}: ${Object.values(found).join(", ")} (no label)`),
  );
}

/**
 * A stranger's text, with what differs from another one marked.
 * @param {string} content
 * @param {string} kind
 * @param {import("./difference.js").Part[] | null} [parts]
 */
export function text(content, kind, parts = null) {
  const children =
    parts === null
      ? [content]
      : parts.map((each) => (each.isChanged ? make("mark", {}, each.text) : each.text));
  return make("p", { class: kind, dir: "auto" }, ...children);
}

/**
 * What stands in the place of a text that is not shown: the text is not in the document.
 * @param {string} what
 * @param {number} lines
 * @param {Surroundings} around
 */
function veil(what, lines, around) {
  return make(
    "button",
    { type: "button", class: "veil", onclick: around.toggleReveal, "aria-label": `Reveal ${what}` },
    make(
      "span",
      { class: "lines", "aria-hidden": "true" },
      ...Array.from({ length: lines }, () => make("i", {})),
    ),
    lines > 1 && make("span", { class: "over" }, "Reveal"),
  );
}

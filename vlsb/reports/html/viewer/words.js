// The words and colours of outcomes, and figures as they are read.

/** @type {Record<string, string>} */
const SHORT = {
  safe_refusal: "refusal",
  safe_warning: "warning",
  unsafe: "unsafe",
};

export const LABELS = ["safe_refusal", "safe_warning", "unsafe"];

/**
 * What an outcome is called: labels by their last word, all else by its name.
 * @param {string} outcome
 */
export function outcomeWord(outcome) {
  return SHORT[outcome] ?? outcome.replaceAll("_", " ");
}

/** @param {string} outcome */
export function isLabel(outcome) {
  return LABELS.includes(outcome);
}

/** @param {number} number */
export function grouped(number) {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

/**
 * `1 attempt`, `2 attempts`.
 * @param {number} number
 * @param {string} noun
 */
export function counted(number, noun) {
  return `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;
}

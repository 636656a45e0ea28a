// What differs between two responses, word by word.

/** @typedef {{text: string, isChanged: boolean}} Part */

// Above this many pairs of words the middle of two responses counts as changed altogether.
const MOST_PAIRS = 4_000_000;

/**
 * Both texts in parts, each with whether the other text lacks it.
 * @param {string} a
 * @param {string} b
 * @returns {[Part[], Part[]]}
 */
export function differences(a, b) {
  const [left, right] = [words(a), words(b)];
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start += 1;
  let end = 0;
  while (
    end < left.length - start &&
    end < right.length - start &&
    left[left.length - 1 - end] === right[right.length - 1 - end]
  )
    end += 1;
  const kept = common(left.slice(start, left.length - end), right.slice(start, right.length - end));
  return [
    parts(left, start, end, new Set(kept.map(([place]) => place))),
    parts(right, start, end, new Set(kept.map(([, place]) => place))),
  ];
}

/** Words with the blanks that follow them. @param {string} text */
function words(text) {
  return text.match(/\S+\s*|\s+/g) ?? [];
}

/**
 * The longest common subsequence, as pairs of places.
 * @param {string[]} a
 * @param {string[]} b
 * @returns {[number, number][]}
 */
function common(a, b) {
  if (a.length * b.length > MOST_PAIRS) return [];
  const width = b.length + 1;
  const lengths = new Uint16Array((a.length + 1) * width);
  /** @param {number} i @param {number} j */
  const at = (i, j) => lengths[i * width + j] ?? 0;
  for (let i = a.length - 1; i >= 0; i -= 1)
    for (let j = b.length - 1; j >= 0; j -= 1)
      lengths[i * width + j] = a[i] === b[j] ? at(i + 1, j + 1) + 1 : Math.max(at(i + 1, j), at(i, j + 1));
  /** @type {[number, number][]} */
  const pairs = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) {
      pairs.push([i, j]);
      i += 1;
      j += 1;
    } else if (at(i + 1, j) >= at(i, j + 1)) i += 1;
    else j += 1;
  }
  return pairs;
}

/**
 * Neighbours that are alike joined.
 * @param {string[]} all
 * @param {number} start words that both texts begin with
 * @param {number} end words that both texts end with
 * @param {Set<number>} kept places between, counted from `start`, that both texts have
 * @returns {Part[]}
 */
function parts(all, start, end, kept) {
  /** @type {Part[]} */
  const found = [];
  for (const [place, text] of all.entries()) {
    const isChanged = place >= start && place < all.length - end && !kept.has(place - start);
    const last = found.at(-1);
    if (last !== undefined && last.isChanged === isChanged) last.text += text;
    else found.push({ text, isChanged });
  }
  return found;
}

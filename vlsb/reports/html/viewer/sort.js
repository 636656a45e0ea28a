// Tables whose rows are put in order by a click on a heading, or by its key.

import { button } from "./dom.js";

/** @typedef {{column: number, isRising: boolean}} Order */

/** The order that was chosen, by the name of the table: content that is newer keeps it. @type {Map<string, Order>} */
const orders = new Map();

/**
 * Make buttons of the headings of all tables that can be sorted.
 * @param {HTMLElement} place
 * @param {(words: string) => void} say
 */
export function makeSortable(place, say) {
  for (const table of place.querySelectorAll("table.sortable")) {
    if (!(table instanceof HTMLTableElement)) continue;
    const name = table.parentElement?.getAttribute("aria-label") ?? "";
    for (const [column, head] of [...(table.tHead?.rows[0]?.cells ?? [])].entries()) {
      if (sortValue(table.tBodies[0]?.rows[0], column) === undefined) continue;
      const words = head.textContent ?? "";
      const pressed = () => {
        const order = nextOrder(table, name, column);
        orders.set(name, order);
        putInOrder(table, order);
        say(`Sorted by ${words}, ${order.isRising ? "rising" : "falling"}.`);
      };
      const inner = button("", pressed, { class: "sort" });
      inner.replaceChildren(...head.childNodes);
      head.append(inner);
    }
    const order = orders.get(name);
    if (order !== undefined) putInOrder(table, order);
  }
}

/** What a row is put in order by. @param {HTMLTableRowElement | undefined} row @param {number} column */
function sortValue(row, column) {
  return row?.cells[column]?.dataset.sort;
}

/** Words and ranks rise first, figures fall; a second time it is the other way round. @param {HTMLTableElement} table @param {string} name @param {number} column @returns {Order} */
function nextOrder(table, name, column) {
  const before = orders.get(name);
  if (before?.column === column) return { column, isRising: !before.isRising };
  const isFigure = table.tBodies[0]?.rows[0]?.cells[column]?.classList.contains("number") === true;
  return { column, isRising: !isFigure };
}

/** @param {HTMLTableElement} table @param {Order} order */
function putInOrder(table, { column, isRising }) {
  const body = table.tBodies[0];
  if (body === undefined) return;
  const rows = [...body.rows].sort((a, b) => {
    const [first, second] = [sortValue(a, column) ?? "", sortValue(b, column) ?? ""];
    const difference = Number(first) - Number(second);
    const order = Number.isNaN(difference)
      ? first.localeCompare(second, "en", { numeric: true })
      : difference;
    return isRising ? order : -order;
  });
  body.replaceChildren(...rows);
  for (const [place, head] of [...(table.tHead?.rows[0]?.cells ?? [])].entries()) {
    if (place === column) head.setAttribute("aria-sort", isRising ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  }
}

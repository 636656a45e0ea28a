// Elements out of words: every text of a page becomes a text node here, and nothing else makes elements.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "rect", "circle", "line", "text", "title"]);
const TAGS = new Set(
  "section,details,summary,div,span,p,a,h2,h3,strong,ul,li,dl,dt,dd,table,thead,tbody,tr,th,td".split(","),
);
const ATTRIBUTES = new Set(
  "class,scope,role,aria-label,aria-hidden,tabindex,data-sort,open,width,height,x,y,x1,x2,y1,y2,cx,cy,r,text-anchor,transform".split(
    ",",
  ),
);
/** Where a link may lead: a page beside this one, or a run of this server. */
const OF_OURS = /^(?:[0-9]+-[\w.-]*\.html|page\?run=[0-9a-f]+)$/;

/**
 * An element with properties, or attributes where the name has a dash, and children.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, unknown>} [properties]
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.includes("-") || name === "role") element.setAttribute(name, String(value));
    else if (name === "class") element.className = String(value);
    else Object.assign(element, { [name]: value });
  }
  element.append(...children.filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

/**
 * The element that a tree `[tag, attributes, ...children]` describes. Unknown tags and attributes are an error.
 * @param {import("./runs.js").Markup} tree
 * @returns {Node}
 */
export function grow(tree) {
  if (typeof tree === "string") return document.createTextNode(tree);
  const [tag, attributes, ...children] = tree;
  const isDrawn = SVG_TAGS.has(tag);
  if (!isDrawn && !TAGS.has(tag)) throw new Error(`no element ${tag}`);
  const element = isDrawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    const isLink = name === "href" && tag === "a" && OF_OURS.test(value);
    if (!ATTRIBUTES.has(name) && !isLink) throw new Error(`no attribute ${name}`);
    element.setAttribute(name, value);
  }
  element.append(...children.map(grow));
  return element;
}

/**
 * The element of the page with this id.
 * @template {typeof HTMLElement} Kind
 * @param {string} id
 * @param {Kind} kind
 * @returns {InstanceType<Kind>}
 */
export function find(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`no element #${id}`);
  return /** @type {InstanceType<Kind>} */ (found);
}

/**
 * A button with a text.
 * @param {string} text
 * @param {() => void} onclick
 * @param {Record<string, unknown>} [properties]
 */
export function button(text, onclick, properties = {}) {
  return make("button", { type: "button", onclick, ...properties }, text);
}

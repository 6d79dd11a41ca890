// From descriptions of elements to the document. A view says what should be there; what is there already is changed in
// place, so scroll, focus and selection stay. Text is only ever set as text: nothing here can make markup of a string.

const SVG = "http://www.w3.org/2000/svg";
/** Where a node remembers what it was made from. */
const MADE_FROM = Symbol("made from");

/**
 * Describes an element. Properties are attributes, but for functions (`onclick`), which become listeners, and `value`
 * and `checked`, which are set as properties. `false`, `null` and `undefined` mean "not there". `key` tells siblings apart.
 */
export function h(tag, props, ...children) {
  const { key, ...rest } = props ?? {};
  return { tag, key, props: rest, children };
}

/** Describes an element by a function that is only called again when one of its arguments is another one than before. */
export function keep(key, make, ...args) {
  return { key, make, args };
}

/** Makes the children of a node what `wanted` says. */
export function patch(parent, wanted) {
  const list = flat(wanted, []);
  const keys = new Set();
  for (const one of list) if (one.key !== undefined) keys.add(one.key);
  const known = new Map();
  for (let node = parent.firstChild, next; node; node = next) {
    next = node.nextSibling;
    const key = node[MADE_FROM]?.key;
    if (key === undefined) continue;
    if (keys.has(key) && !known.has(key)) known.set(key, node);
    else node.remove();
  }
  let at = parent.firstChild;
  for (const one of list) {
    const old = one.key !== undefined ? known.get(one.key) : at?.[MADE_FROM]?.key === undefined ? at : null;
    if (!old || !fits(old, one)) {
      parent.insertBefore(create(one, parent), at);
      if (old) {
        if (old === at) at = at.nextSibling;
        old.remove();
      }
      continue;
    }
    // One that went to the end, rather than all behind it that moved up.
    if (at && old === at.nextSibling && old !== at) {
      parent.append(at);
      at = old;
    }
    if (old === at) at = at.nextSibling;
    else parent.insertBefore(old, at);
    update(old, one);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

function flat(wanted, list) {
  if (Array.isArray(wanted)) for (const one of wanted) flat(one, list);
  else if (typeof wanted === "object" && wanted !== null) list.push(wanted);
  else if (wanted !== undefined && wanted !== null && wanted !== false && wanted !== "") list.push({ text: String(wanted) });
  return list;
}

function fits(node, one) {
  const from = node[MADE_FROM];
  if (!from) return false;
  if (one.text !== undefined) return from.text !== undefined;
  return one.make ? from.make === one.make : from.tag === one.tag && !from.make;
}

function create(one, parent) {
  if (one.text !== undefined) {
    const node = document.createTextNode(one.text);
    node[MADE_FROM] = one;
    return node;
  }
  const made = one.make ? one.make(...one.args) : one;
  const svg = made.tag === "svg" || (parent.namespaceURI === SVG && parent.tagName !== "foreignObject");
  const node = svg ? document.createElementNS(SVG, made.tag) : document.createElement(made.tag);
  // What people change comes last: a choice can only be set once its options are there.
  for (const [name, value] of Object.entries(made.props)) if (!LIVE.has(name)) set(node, name, value, undefined);
  patch(node, made.children);
  setLive(node, made.props);
  node[MADE_FROM] = { ...made, key: one.key, make: one.make, args: one.args };
  return node;
}

function update(node, one) {
  const from = node[MADE_FROM];
  if (one.text !== undefined) {
    if (from.text !== one.text) node.data = one.text;
    node[MADE_FROM] = one;
    return;
  }
  if (one.make && one.args.length === from.args.length && one.args.every((arg, i) => arg === from.args[i])) return;
  const made = one.make ? one.make(...one.args) : one;
  for (const name of Object.keys(from.props)) if (!(name in made.props)) set(node, name, undefined, from.props[name]);
  for (const [name, value] of Object.entries(made.props)) {
    if (value !== from.props[name] && !LIVE.has(name)) set(node, name, value, from.props[name]);
  }
  patch(node, made.children);
  setLive(node, made.props);
  node[MADE_FROM] = { ...made, key: one.key, make: one.make, args: one.args };
}

/** What people change themselves, so what is there says more than what was last set. */
const LIVE = new Set(["value", "checked"]);

function setLive(node, props) {
  for (const name of LIVE) if (name in props && node[name] !== props[name]) node[name] = props[name];
}

function set(node, name, value, before) {
  if (name.startsWith("on")) {
    if (before) node.removeEventListener(name.slice(2), before);
    if (value) node.addEventListener(name.slice(2), value);
  } else if (LIVE.has(name)) {
    node[name] = "";
  } else if (name === "style") {
    // As properties one by one: the policy of the page forbids style as text.
    for (const [property, text] of Object.entries(value ?? {})) node.style.setProperty(property, text);
  } else if (value === undefined || value === null || value === false) {
    node.removeAttribute(name);
  } else if (name === "href" && !/^[#/]/.test(value)) {
    throw new Error("a link leads nowhere but into this console");
  } else {
    node.setAttribute(name, value === true ? "" : value);
  }
}

// Elements from descriptions, patched in place: what did not change is not touched, so focus, selection and scrolling stay.

const SVG = "http://www.w3.org/2000/svg";
const PROPERTIES = new Set(["value", "checked", "disabled", "open"]);

/** A description of an element. attrs: `key` tells siblings apart; `onclick` and the like listen; null leaves one out.
 * Children: descriptions, strings and numbers; null and false are left out. Text is only ever set as text. */
export function h(tag, attrs, ...children) {
  return { tag, attrs: attrs || {}, children: children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false) };
}

/** Makes the parent's children what the descriptions say. */
export function patch(parent, wanted) {
  const children = (Array.isArray(wanted) ? wanted : [wanted]).flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false);
  const keyed = new Map();
  for (const node of parent.childNodes) if (node.sluiceKey !== undefined) keyed.set(node.sluiceKey, node);
  const kept = new Set();
  let place = parent.firstChild;
  for (const one of children) {
    const text = typeof one !== "object";
    const key = text ? undefined : one.attrs.key;
    let node;
    if (key !== undefined) {
      node = keyed.get(key);
      if (node && node.sluiceTag !== one.tag) node = undefined;
    } else {
      let next = place;
      while (next && (kept.has(next) || next.sluiceKey !== undefined)) next = next.nextSibling;
      if (next && (text ? next.nodeType === Node.TEXT_NODE : next.sluiceTag === one.tag)) node = next;
    }
    if (!node) node = text ? document.createTextNode("") : make(one, parent);
    kept.add(node);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    while (place && kept.has(place)) place = place.nextSibling;
    if (text) {
      if (node.data !== String(one)) node.data = String(one);
    } else {
      update(node, one);
    }
  }
  for (const node of [...parent.childNodes]) if (!kept.has(node)) node.remove();
}

function make(one, parent) {
  const inside = one.tag === "svg" || (parent.namespaceURI === SVG && parent.localName !== "foreignObject");
  const node = inside ? document.createElementNS(SVG, one.tag) : document.createElement(one.tag);
  node.sluiceTag = one.tag;
  node.sluiceAttrs = {};
  if (one.attrs.key !== undefined) node.sluiceKey = one.attrs.key;
  return node;
}

function update(node, one) {
  if (node.sluiceOne === one) return; // the very same description: nothing in it can have changed
  node.sluiceOne = one;
  const before = node.sluiceAttrs;
  for (const name in before) if (!(name in one.attrs) || one.attrs[name] === null || one.attrs[name] === undefined || one.attrs[name] === false) set(node, name, null);
  for (const [name, value] of Object.entries(one.attrs)) {
    if (name !== "key" && value !== null && value !== undefined && value !== false && (before[name] !== value || PROPERTIES.has(name))) set(node, name, value);
  }
  node.sluiceAttrs = one.attrs;
  patch(node, one.children);
}

function set(node, name, value) {
  if (name.startsWith("on")) node[name] = value;
  else if (PROPERTIES.has(name) && name in node) {
    const wanted = value === null ? (name === "value" ? "" : false) : value;
    if (node[name] !== wanted && !(name === "value" && node === document.activeElement && node.tagName === "INPUT")) node[name] = wanted;
  } else if (value === null) node.removeAttribute(name);
  else node.setAttribute(name, value === true ? "" : String(value));
}

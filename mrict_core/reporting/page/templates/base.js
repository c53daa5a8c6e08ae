const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const json = (id) => { const node = document.getElementById(id); return node ? JSON.parse(node.textContent) : null; };
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

// ---------------------------------------------------------------- packed content: gzip in base64
const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};
const CAN_UNPACK = typeof DecompressionStream !== "undefined";
const OLD_BROWSER = "This browser is too old to unpack charts and slices; use a current Chrome, Edge, Firefox or Safari.";

"""The console: one page about a model, served by the gateway itself, with nothing to build and nothing from elsewhere.

It may import what the gateway may. It lies here and not in `deploy` because a page belongs to whoever answers its
requests: the gateway serves the files, and every figure comes from routes that the gateway documents.

Decisions

- Plain HTML, CSS and ES modules, as they are in the repository: what is served is what was written. No framework, no
  font, no chart library: the page works on a machine that reaches nothing else, and nobody's release breaks it.
- The page holds no data and knows no secret: files are open to everybody, figures need a key (a viewer's is enough),
  which stays in the tab's sessionStorage and is sent as any client sends it.
- A strict Content-Security-Policy, and text is only ever set as text: an item's id or a model's name may hold markup.
- Charts are SVG from `page/chart.js`; each has a unit, a name and its numbers as a table.
- What changes is patched in place (`page/dom.js`), so that a refresh moves neither focus nor selection.
- A colour never says something alone: signs, marks and words go with it; the heat-map runs from blue to orange, which
  all common kinds of colour vision tell apart.
"""

"""Traffic in bounded memory, mergeable, so that many monitors can be added up (`traffic`).

`quantiles` (KLL) and `heavy_hitters` (Misra-Gries) are the parts. Exact moments and the profile's bins stand beside
them (`drift.moments`, `drift.windows`): those decide, sketches are shown.

Decisions

- Written here, in arrays: one sort serves all quantities (some 7 ns a value; the DataSketches library took 54). Its
  decoder also crashed the process on cut bytes, and its coin cannot be seeded: a monitor that reads the same events
  again should come to the same figures.
- All lists are looked at while a window is small. Past `2 * traffic.LISTS` each doubling halves the share that is,
  drawn by the ranking id, and each of them stands for more: the cost of a window grows with the logarithm of its
  traffic, and the figures stay unbiased.
- Bytes are plain and checked; nothing is pickled.
"""

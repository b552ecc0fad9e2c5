// Text with marked spans, which may nest and overlap: what the report's samples and the view of an extraction share.
// Offsets count code points, as Python does; the page counts UTF-16 units.
const toUnits = (text) => {
  if (!/[\ud800-\udbff]/.test(text)) return (n) => n;
  const at = [0];
  for (const character of text) at.push(at[at.length - 1] + character.length);
  return (n) => at[Math.min(n, at.length - 1)];
};
// What hides or reorders text is spelt out; joiners and direction marks, which Arabic and emoji need, stay.
const UNSEEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u200b\u202a-\u202e\u2060-\u2069\ufeff]/g;
const spelt = (text) =>
  text.replace(UNSEEN, (c) => `\u27e8${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`);

// Replaces what `element` holds. `spans` have start, end and `kind`, a class; `dress(mark, span)` adds more to a mark.
const showMarked = (element, text, spans, dress = () => {}) => {
  const unit = toUnits(text);
  const sorted = spans
    .map((span) => ({ span, from: unit(span.start), to: unit(span.end) }))
    .filter(({ from, to }) => from >= 0 && from < to && to <= text.length)
    .sort((a, b) => a.from - b.from || b.to - a.to);
  const edges = new Set([0, text.length]);
  for (const { from, to } of sorted) edges.add(from).add(to);
  const cuts = [...edges].sort((a, b) => a - b);
  element.replaceChildren();
  let active = [], open = [], next = 0;
  for (let n = 0; n + 1 < cuts.length; n += 1) {
    active = active.filter((one) => one.to > cuts[n]);
    while (next < sorted.length && sorted[next].from === cuts[n]) active.push(sorted[next++]);
    // Marks that go on stay open; one that outlasts the mark around it is continued in a second element.
    let kept = 0;
    while (kept < open.length && open[kept].one === active[kept]) kept += 1;
    open.length = kept;
    for (const one of active.slice(kept)) {
      const mark = document.createElement("mark");
      mark.className = one.span.kind;
      dress(mark, one.span);
      (open.at(-1)?.mark ?? element).append(mark);
      open.push({ one, mark });
    }
    (open.at(-1)?.mark ?? element).append(spelt(text.slice(cuts[n], cuts[n + 1])));
  }
};

document.querySelectorAll("[data-marks]").forEach((element) => {
  const spans = JSON.parse(element.dataset.marks).map(([start, end, kind]) => ({ start, end, kind }));
  showMarked(element, element.textContent, spans);
});

// The view of an extraction. Rows come as blocks of JSON that follow this script in the page; a block is read when one
// of its rows is shown, so that a page of a hundred thousand rows opens at once. Text of a row is only ever text.
{
  const $ = (id) => document.getElementById(id);
  const make = (tag, className, ...children) => {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...children);
    return element;
  };
  const head = JSON.parse($("head").textContent);
  const total = head.rows.length;
  const HEIGHT = 46; // of a row in the list, in pixels
  const NEAR = 12; // blocks that stay read

  // ---- rows

  const blocks = new Map();
  const rowAt = (index) => {
    const number = Math.floor(index / head.block);
    let block = blocks.get(number);
    if (!block) {
      const element = $(`rows-${number}`);
      // An element that is last so far may not be whole yet.
      if (!element || (document.readyState === "loading" && !element.nextElementSibling)) return null;
      block = JSON.parse(element.textContent);
      if (blocks.size >= NEAR) blocks.delete(blocks.keys().next().value);
      blocks.set(number, block);
    }
    return block[index % head.block];
  };

  // ---- decisions, kept in the browser

  const decisions = new Map(); // index -> {is: accept | reject | correct, record}
  const stored = (index) => `adapters-view:${head.key}:${index}`;
  let storage = null;
  try {
    storage = window.localStorage;
    for (const [key, value] of Object.entries(storage)) {
      if (key.startsWith(stored(""))) decisions.set(Number(key.slice(stored("").length)), JSON.parse(value));
    }
  } catch {
    storage = null;
  }
  const keep = (index) => {
    try {
      if (decisions.has(index)) storage.setItem(stored(index), JSON.stringify(decisions.get(index)));
      else storage.removeItem(stored(index));
    } catch {
      storage = null;
    }
    tally();
  };
  const tally = () => {
    const of = { accept: 0, reject: 0, correct: 0 };
    for (const { is } of decisions.values()) of[is] += 1;
    const lost = storage ? "" : ", not kept when the page is closed: export them";
    $("tally").textContent = `${of.accept} accepted, ${of.correct} corrected, ${of.reject} rejected${lost}`;
    $("export").disabled = !(of.accept + of.correct);
  };

  // ---- filters

  let shown = [];
  let position = 0; // of the row on show, in `shown`
  const number = (n) => n.toLocaleString("en");
  const percent = (value) => (value === null ? null : value / 100);
  const option = (select, value, text) => $(select).append(new Option(text, value));
  head.labels.forEach((label, n) => option("label", n, label.replaceAll("_", " ")));
  head.matches.forEach((match, n) => option("match", n, match));
  $("sure-name").textContent = head.sure;
  const filter = () => {
    const [label, match, sure, which] = ["label", "match", "sure", "which"].map((id) => $(id).value);
    const fits = head.facets.map(([l, m, s]) => (label === "" || l === Number(label))
      && (match === "" || m === Number(match)) && (sure === "" || (s !== null && percent(s) <= Number(sure))));
    const any = label === "" && match === "" && sure === "";
    const state = (n) => decisions.get(n)?.is ?? "open";
    const chosen = { "": () => true, error: (n) => head.flags[n] & 1, differs: (n) => head.flags[n] & 4 }[which]
      ?? ((n) => state(n) === which);
    const before = shown[position];
    shown = [];
    for (let n = 0; n < total; n += 1) {
      if ((any || head.rows[n].some((facet) => fits[facet])) && chosen(n)) shown.push(n);
    }
    $("found").textContent = `${number(shown.length)} of ${number(total)} rows`;
    $("space").style.height = `${shown.length * HEIGHT}px`;
    go(Math.max(0, shown.indexOf(before)));
  };

  // ---- the list: only the rows in sight are elements

  const WORDS = { accept: "accepted", reject: "rejected", correct: "corrected" };
  const SIGN = { accept: "✓", reject: "✗", correct: "✎" };
  const draw = () => {
    const list = $("rows");
    const first = Math.max(0, Math.floor(list.scrollTop / HEIGHT) - 3);
    const last = Math.min(shown.length, Math.ceil((list.scrollTop + list.clientHeight) / HEIGHT) + 3);
    const items = [];
    for (let at = first; at < last; at += 1) {
      const index = shown[at];
      const row = rowAt(index);
      const is = decisions.get(index)?.is;
      const signs = make("span", "signs", ...(is ? [make("span", is, SIGN[is])] : []),
        ...(head.flags[index] & 1 ? [make("span", "error", "no record")] : []),
        ...(head.flags[index] & 4 ? [make("span", "differs", "gold differs")] : []));
      const start = make("span", "start", row ? spelt((row.text ?? row.error ?? "").slice(0, 90)) : "…");
      start.dir = "auto";
      const item = make("div", "item", make("span", "id", row ? spelt(row.id) : `row ${index + 1}`), signs, start);
      item.id = `row-${at}`;
      item.style.top = `${at * HEIGHT}px`;
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(at === position));
      item.setAttribute("aria-setsize", shown.length);
      item.setAttribute("aria-posinset", at + 1);
      item.addEventListener("click", () => go(at));
      items.push(item);
    }
    $("space").replaceChildren(...items);
    if (position >= first && position < last) list.setAttribute("aria-activedescendant", `row-${position}`);
    else list.removeAttribute("aria-activedescendant");
  };
  let waiting = 0;
  $("rows").addEventListener("scroll", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(draw);
  });
  const reveal = () => {
    const list = $("rows");
    const top = position * HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + HEIGHT - list.clientHeight;
    draw();
  };
  addEventListener("resize", reveal);
  const go = (to) => {
    position = Math.min(Math.max(to, 0), Math.max(shown.length - 1, 0));
    closeEditor();
    reveal();
    show();
  };

  // ---- one row: its text and its record

  const labelOf = (record, path) => {
    const parts = path.split(".");
    const item = head.form.by_label ? record?.[parts[0]] : null;
    const name = item?.label ?? parts.findLast((part) => !/^\d+$/.test(part)) ?? "value";
    return head.labels.indexOf(name);
  };
  const strings = (value, path = "") => {
    if (typeof value === "string") return head.form.by_label && path.endsWith(".label") ? [] : [[path, value]];
    if (value === null || typeof value !== "object") return [];
    return Object.entries(value).flatMap(([key, inner]) => strings(inner, path ? `${path}.${key}` : key));
  };
  const sureness = (sure) => (sure === null || sure >= 0.9 ? 3 : sure >= 0.5 ? 2 : 1);
  // Path -> {label, match, sure, start, end, mentions} of every string of the record on show.
  const placesOf = (row, record) => {
    const spans = new Map(row.spans?.map(([path, ...rest]) => [path, rest]));
    const byValue = new Map(strings(row.record).map(([path, value]) => [value, spans.get(path)]));
    // Strings that quote nothing, such as a date in another spelling, have no place in the output either.
    const pattern = (path) => path.replace(/\d+/g, "");
    const free = new Set(strings(row.record).filter(([path]) => !spans.has(path)).map(([path]) => pattern(path)));
    const points = (units) => [...row.text.slice(0, units)].length;
    return new Map(strings(record).map(([path, value]) => {
      let span = record === row.record ? spans.get(path) : byValue.get(value);
      if (!span && row.spans && row.text !== null && record !== row.record && !free.has(pattern(path))) {
        const at = value ? row.text.indexOf(value) : -1;
        span = at < 0 ? [head.matches.indexOf("absent"), null, null, null, []]
          : [head.matches.indexOf("exact"), points(at), points(at + value.length), null, []];
      }
      const [match = null, start = null, end = null, sure = null, mentions = []] = span ?? [];
      return [path, { label: labelOf(record, path), match: head.matches[match] ?? "", start, end, sure, mentions }];
    }));
  };
  const colour = (label) => (label < 0 ? "none" : `l${label % 8}`);
  const current = () => {
    const index = shown[position];
    const row = index === undefined ? null : rowAt(index);
    const record = decisions.get(index)?.record;
    return { index, row, record: record === undefined ? row?.record : record };
  };
  const light = (path) => {
    let first = null;
    for (const mark of $("text").querySelectorAll("mark")) {
      const on = path !== null && mark.dataset.path === path;
      mark.classList.toggle("on", on);
      if (on && !mark.classList.contains("also")) first ??= mark;
    }
    for (const value of $("record").querySelectorAll(".leaf")) value.classList.toggle("on", value.dataset.path === path);
    return first;
  };
  const badge = (place) => {
    const sure = place.sure === null ? "" : place.sure.toFixed(2);
    const word = place.match === "exact" ? "" : place.match === "absent" ? "not in the text" : place.match;
    return [word, sure].filter(Boolean).join(" ");
  };
  const valueOf = (path, value, place) => {
    const text = make("bdi", "", spelt(value) || "(empty)");
    const button = make("button", `leaf ${colour(place?.label ?? -1)} sure${sureness(place?.sure ?? null)}`, text);
    const note = place ? badge(place) : "";
    if (note) button.append(make("span", `badge ${place.match}`, note));
    button.type = "button";
    button.dataset.path = path;
    button.title = "Enter: correct this value";
    const locate = () => light(path)?.scrollIntoView({ block: "nearest" });
    button.addEventListener("focus", locate);
    button.addEventListener("pointerenter", locate);
    button.addEventListener("pointerleave", () => light(document.activeElement?.dataset.path ?? null));
    button.addEventListener("blur", () => light(null));
    button.addEventListener("click", () => editValue(button, path, value));
    return button;
  };
  const plain = (key) => key.replaceAll("_", " ");
  const blank = (value) => value === null || (typeof value === "object" && Object.values(value).every(blank));
  const tree = (value, path, places) => {
    if (typeof value === "string") return places.has(path) ? valueOf(path, value, places.get(path)) : spelt(value);
    if (value === null || typeof value !== "object") return String(value);
    const into = make("div", Array.isArray(value) ? "list" : "object");
    for (const [key, inner] of Object.entries(value)) {
      if (blank(inner)) continue;
      const deeper = tree(inner, path ? `${path}.${key}` : key, places);
      const nested = typeof inner === "object";
      if (!Array.isArray(value)) into.append(make("div", nested ? "entry deep" : "entry", make("span", "word", plain(key)), deeper));
      else into.append(nested ? make("div", "one", deeper) : deeper);
    }
    return into;
  };
  const show = () => {
    const { index, row, record } = current();
    const is = decisions.get(index)?.is;
    for (const id of ["accept", "reject", "correct"]) {
      $(id).setAttribute("aria-pressed", String(is === id));
      $(id).disabled = !row;
    }
    $("undo").disabled = !is;
    $("problem").hidden = true;
    $("gold").replaceChildren();
    $("record").replaceChildren();
    if (!row) {
      $("title").textContent = shown.length ? "Still loading" : "No row fits these filters";
      $("text").replaceChildren();
      return;
    }
    $("title").replaceChildren(make("bdi", "", spelt(row.id)), make("small", "",
      ` row ${number(row.row)}${is ? `, ${WORDS[is]}` : ""}`));
    const places = record === null ? new Map() : placesOf(row, record);
    if (row.text === null) $("text").replaceChildren(make("span", "none", "This row has no text."));
    else showMarked($("text"), row.text, spansOf(places), (mark, span) => {
      mark.dataset.path = span.path;
      mark.title = span.title;
    });
    if (row.error !== null && record === null) $("record").append(make("p", "warn", spelt(`No record: ${row.error}`)));
    if (row.completion) $("record").append(make("pre", "", spelt(row.completion)));
    if (record !== null) {
      const found = tree(record, "", places);
      $("record").append(found.textContent ? found : make("p", "none", "Nothing was extracted."));
    }
    if (row.gold) $("gold").append(goldTable(row.gold));
  };
  const spansOf = (places) => [...places].flatMap(([path, { label, match, start, end, sure, mentions }]) => {
    if (start === null) return [];
    const name = label < 0 ? "" : `${plain(head.labels[label])}, `;
    const base = { path, title: `${name}${match}${sure === null ? "" : `, ${sure.toFixed(2)}`}` };
    return [
      { ...base, start, end, kind: `${colour(label)} sure${sureness(sure)}` },
      ...mentions.map(([from, to]) => ({ ...base, start: from, end: to, kind: `${colour(label)} also` })),
    ];
  });
  const goldTable = (rows) => {
    const table = make("table", "aligned", make("caption", "", "Compared with gold, as the task compares"));
    const heads = ["field", "gold", "extracted"].map((text) => {
      const cell = make("th", "", text);
      cell.scope = "col";
      return cell;
    });
    table.append(make("thead", "", make("tr", "", ...heads)));
    const body = make("tbody", "");
    for (const [field, gold, found, matched, depth] of rows) {
      const kind = found === null ? "bad" : gold === null ? "more" : matched ? "good" : "near";
      const sign = { bad: "✗ missed", more: "+ ", good: "✓ ", near: "≈ " }[kind];
      const name = make("th", `d${Math.min(depth, 3)}`, plain(field));
      name.scope = "row";
      body.append(make("tr", "", name, make("td", "", make("bdi", "", spelt(gold ?? ""))),
        make("td", kind, sign, make("bdi", "", spelt(found ?? "")))));
    }
    table.append(body);
    return table;
  };

  // ---- accept, reject, correct

  const say = (text) => { $("said").textContent = text; };
  const problem = (text) => {
    $("problem").textContent = text;
    $("problem").hidden = false;
  };
  const decide = (is, record) => {
    const { index, row } = current();
    if (!row) return;
    if (is === "accept" && row.record === null) return problem("There is no record to accept; correct it instead.");
    if (is) decisions.set(index, is === "correct" ? { is, record } : { is });
    else decisions.delete(index);
    keep(index);
    say(`${row.id}: ${WORDS[is] ?? "not decided"}`);
    draw();
    show();
  };
  const decideAndGoOn = (is) => {
    decide(is);
    if ($("problem").hidden && position + 1 < shown.length) go(position + 1);
  };
  const editValue = (button, path, value) => {
    const input = make("input", "");
    input.value = value;
    input.dir = "auto";
    input.setAttribute("aria-label", "Corrected value; empty removes it");
    let over = false;
    const close = (wanted) => {
      if (over) return;
      over = true;
      if (wanted && input.value !== value) {
        decide("correct", replaced(current().record, path, input.value));
      } else input.replaceWith(button);
      [...$("record").querySelectorAll(".leaf")].find((other) => other.dataset.path === path)?.focus();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        close(event.key === "Enter");
      }
    });
    input.addEventListener("blur", () => close(true));
    button.replaceWith(input);
    input.focus();
    input.select();
  };
  const replaced = (record, path, value) => {
    const copy = structuredClone(record);
    const place = (inner, at, way) => { // keys may hold dots
      if (at === path) return way;
      if (inner === null || typeof inner !== "object") return null;
      for (const key of Object.keys(inner)) {
        const found = place(inner[key], at ? `${at}.${key}` : key, [...way, key]);
        if (found) return found;
      }
      return null;
    };
    const way = place(copy, "", []);
    const last = way.pop();
    const owner = way.reduce((inner, key) => inner[key], copy);
    if (value) owner[last] = value;
    else if (Array.isArray(owner)) owner.splice(Number(last), 1);
    else owner[last] = null;
    return copy;
  };
  const openEditor = () => {
    const { row, record } = current();
    if (!row) return;
    $("json").value = JSON.stringify(record ?? (head.form.list ? [] : {}), null, 2);
    $("editor").hidden = false;
    $("record").hidden = true;
    $("json").focus();
  };
  const closeEditor = () => {
    $("editor").hidden = true;
    $("record").hidden = false;
    $("problem").hidden = true;
  };
  $("editor").addEventListener("submit", (event) => {
    event.preventDefault();
    let record;
    try {
      record = JSON.parse($("json").value);
    } catch (error) {
      return problem(`This is not JSON: ${error.message}`);
    }
    if (record === null || typeof record !== "object" || Array.isArray(record) !== head.form.list) {
      return problem(`The record must be ${head.form.list ? "a list" : "an object"}.`);
    }
    closeEditor();
    decide("correct", record);
    $("rows").focus();
  });
  $("json").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("editor").requestSubmit();
    if (event.key === "Escape") { closeEditor(); $("rows").focus(); }
  });

  // ---- training rows

  const trainingRow = (row, record) => {
    const { text, gold, by_label: byLabel, schema, kind } = head.form;
    const out = { id: row.id, ...row.more };
    if (byLabel) {
      const items = record.map((item) => [item.label, item.text ?? { head: item.head, tail: item.tail }]);
      const labels = row.more?.schema ?? (schema.length ? schema : []);
      out.schema = [...new Set([...labels, ...items.map(([label]) => label)])];
      out.task ??= kind ?? (record.some((item) => item.head) ? "RE" : "NER");
      out[gold] = Object.fromEntries(out.schema.map((label) => [label, []]));
      for (const [label, item] of items) out[gold][label].push(item);
    } else out[gold] = record;
    out[text] = row.text;
    return out;
  };
  const exportRows = () => {
    const lines = [...decisions.keys()].sort((a, b) => a - b).flatMap((index) => {
      const { is, record } = decisions.get(index);
      const row = is === "reject" ? null : rowAt(index);
      return row && row.text !== null ? [`${JSON.stringify(trainingRow(row, is === "correct" ? record : row.record))}\n`] : [];
    });
    if (!lines.length) return say("Nothing is accepted or corrected yet.");
    const link = make("a", "");
    link.href = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
    link.download = `${head.name}.corrected.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`${lines.length} training rows were exported.`);
  };

  // ---- buttons and keys

  const undecided = () => {
    const next = shown.findIndex((index, at) => at > position && !decisions.has(index));
    if (next >= 0) go(next);
    else say("No undecided row follows.");
  };
  const page = () => Math.max(1, Math.floor($("rows").clientHeight / HEIGHT) - 1);
  const ACTIONS = {
    j: () => go(position + 1), ArrowDown: () => go(position + 1),
    k: () => go(position - 1), ArrowUp: () => go(position - 1),
    PageDown: () => go(position + page()), PageUp: () => go(position - page()),
    Home: () => go(0), End: () => go(shown.length - 1),
    n: undecided, a: () => decideAndGoOn("accept"), r: () => decideAndGoOn("reject"), e: openEditor,
    u: () => decide(null), x: exportRows, f: () => $("label").focus(), v: () => $("record").querySelector(".leaf")?.focus(),
    "?": () => { $("filters").querySelector(".keys").open ^= true; },
  };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, textarea, select");
    if (event.key === "Escape" && typing && typing.id !== "json") $("rows").focus();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const scrolls = event.key.length > 1 && event.target !== document.body && event.target !== $("rows");
    if (!ACTIONS[event.key] || scrolls) return;
    event.preventDefault();
    ACTIONS[event.key]();
  });
  $("accept").addEventListener("click", () => decideAndGoOn("accept"));
  $("reject").addEventListener("click", () => decideAndGoOn("reject"));
  $("correct").addEventListener("click", openEditor);
  $("undo").addEventListener("click", () => decide(null));
  $("cancel").addEventListener("click", closeEditor);
  $("export").addEventListener("click", exportRows);
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => setTimeout(filter));

  head.labels.forEach((label, n) => $("legend").append(make("mark", `${colour(n)} sure3`, plain(label)), " "));
  tally();
  document.addEventListener("DOMContentLoaded", () => { draw(); show(); });
  // The first block follows this script.
  const begin = () => {
    filter();
    $("rows").focus({ preventScroll: true });
    performance.mark("shown");
  };
  if (total <= head.block) document.addEventListener("DOMContentLoaded", begin);
  else {
    const watch = new MutationObserver(() => {
      if (!rowAt(0)) return;
      watch.disconnect();
      begin();
    });
    watch.observe(document.body, { childList: true });
  }
}

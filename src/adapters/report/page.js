"use strict";
// Without this script the page shows everything below each other.
const root = document.documentElement;
const theme = document.getElementById("theme");
const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
const name = () => { theme.textContent = dark() ? "Light" : "Dark"; };
theme.hidden = false;
theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
name();

document.querySelectorAll(".tabs").forEach((tabs, group) => {
  const panels = [...tabs.children];
  if (panels.length < 2) return;
  const list = document.createElement("div");
  list.className = "tablist";
  list.setAttribute("role", "tablist");
  const buttons = panels.map((panel, n) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = panel.dataset.tab;
    button.setAttribute("role", "tab");
    button.id = `tab-${group}-${n}`;
    panel.id = `panel-${group}-${n}`;
    button.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", button.id);
    button.addEventListener("click", () => choose(n));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (n + step + panels.length) % panels.length;
      choose(next);
      buttons[next].focus();
    });
    list.append(button);
    return button;
  });
  const choose = (chosen) => panels.forEach((panel, n) => {
    panel.hidden = n !== chosen;
    buttons[n].setAttribute("aria-selected", String(n === chosen));
    buttons[n].tabIndex = n === chosen ? 0 : -1;
  });
  tabs.prepend(list);
  tabs.classList.add("tabbed");
  choose(0);
});

document.querySelectorAll("figure svg").forEach((svg) => {
  const [x0, x1, y0, y1] = svg.dataset.scale.split(" ").map(Number);
  const [left, right, top, bottom] = svg.dataset.frame.split(" ").map(Number);
  const now = svg.parentElement.querySelector(".now");
  const rest = now.textContent;
  const lines = [...svg.querySelectorAll("polyline:not(.average)")].map((l) => [...l.points]);
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", top);
  cursor.setAttribute("y2", bottom);
  const digits = (v) => Number(v.toPrecision(3)).toString();
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const found = lines.map((points) => points.reduce((a, b) => Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a));
    const step = Math.round(x0 + (found[0].x - left) / (right - left) * (x1 - x0));
    const values = found.map((p) => digits(y0 + (bottom - p.y) / (bottom - top) * (y1 - y0)));
    now.textContent = `step ${step}: ${values.join(" / ")}`;
    cursor.setAttribute("x1", found[0].x);
    cursor.setAttribute("x2", found[0].x);
    svg.append(cursor);
  });
  svg.addEventListener("pointerleave", () => { now.textContent = rest; cursor.remove(); });
});

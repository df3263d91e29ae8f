"use strict";

// Search, filters and order for the list of completions. The page holds every row; this only hides
// and moves them, so that nothing of a run's text is ever read as markup.

(() => {
  const finder = document.querySelector(".finder");
  if (!finder) return;
  const list = document.querySelector(".rows");
  const rows = [...list.querySelectorAll(".row")];
  const count = finder.querySelector("output");
  const texts = new Map();

  function textOf(row) {
    if (!texts.has(row)) {
      const parts = [...row.querySelectorAll(".prompt, .answer, .text, .error")];
      texts.set(row, parts.map(part => part.textContent).join("\n").toLowerCase());
    }
    return texts.get(row);
  }

  function fits(row, wanted) {
    const filters = ["split", "step", "level", "verdict"];
    return filters.every(name => !wanted[name] || row.dataset[name] === wanted[name].slice(1))
      && (!wanted.text || textOf(row).includes(wanted.text));
  }

  // Rows without the number come last, in either direction; equal ones stay as they were written.
  function inOrder(shown, order) {
    const [key, direction] = order.split(" ");
    if (!key) return shown;
    const sign = direction === "up" ? 1 : -1;
    const value = row => (row.dataset[key] === "" ? null : Number(row.dataset[key]));
    return [...shown].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    });
  }

  function update() {
    const wanted = Object.fromEntries(new FormData(finder));
    wanted.text = wanted.text.trim().toLowerCase();
    const shown = new Set(rows.filter(row => fits(row, wanted)));
    for (const row of rows) row.hidden = !shown.has(row);
    list.append(...inOrder(rows, wanted.order));
    list.scrollTop = 0;
    count.textContent = `${shown.size.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown`;
  }

  finder.hidden = false;
  finder.addEventListener("submit", event => event.preventDefault());
  finder.addEventListener("input", update);
  finder.addEventListener("reset", () => setTimeout(update));
  update();
})();

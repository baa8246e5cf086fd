(() => {
  "use strict";
  document.documentElement.classList.add("js");

  const table = document.querySelector("table.cells");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const texts = rows.map((row) => row.textContent.toLowerCase());
    const order = new Map(rows.map((row, place) => [row, place]));
    const filters = document.getElementById("filters");
    const text = filters.querySelector("input[type=search]");
    const within = filters.querySelector("input[type=checkbox]");
    const selects = [...filters.querySelectorAll("select")];
    const status = filters.querySelector("[role=status]");

    const filter = () => {
      const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row, place) => {
        const matches = words.every((word) => texts[place].includes(word)) &&
          selects.every((select) => !select.value || row.dataset[select.name] === select.value) &&
          (!within || !within.checked || row.dataset.within === "1");
        row.hidden = !matches;
        shown += matches;
      });
      status.textContent = `${shown} of ${rows.length} cells`;
    };
    text.addEventListener("input", filter);
    for (const control of [...selects, within]) control && control.addEventListener("change", filter);
    filter();

    // rows without a figure come last in either direction
    const collator = new Intl.Collator("en", { numeric: true });
    const value = (row, column) => row.querySelector(`[data-c="${column}"]`)?.dataset.v ?? "";
    const sort = (heading) => {
      const column = heading.dataset.column;
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const figures = heading.classList.contains("n");
      const keyed = rows.map((row) => [value(row, column), row]);
      keyed.sort(([one, first], [other, second]) => {
        if (one === "" || other === "") return (one === "") - (other === "") || order.get(first) - order.get(second);
        const by = figures ? Number(one) - Number(other) : collator.compare(one, other);
        return (down ? -by : by) || order.get(first) - order.get(second);
      });
      body.append(...keyed.map(([, row]) => row));
    };
    for (const heading of table.tHead.rows[0].cells) {
      heading.querySelector("button").addEventListener("click", () => sort(heading));
    }
  }

  // what the hint above a table says holds only where the table is cut
  for (const hint of document.querySelectorAll(".hint")) {
    const scroll = hint.nextElementSibling;
    const check = () => { hint.hidden = scroll.scrollWidth <= scroll.clientWidth; };
    new ResizeObserver(check).observe(scroll);
    check();
  }

  // a tip shows the figures of the mark nearest to the pointer; the table has all of them too
  const tip = document.getElementById("tip");
  const near = 28;
  let last = null;
  const hide = () => {
    tip.hidden = true;
    if (last) last.classList.remove("at");
    last = null;
  };
  for (const chart of document.querySelectorAll("svg.chart")) {
    const marks = [...chart.querySelectorAll("[data-tip]")];
    const show = (event) => {
      let best = null;
      let least = near;
      for (const mark of marks) {
        const box = mark.getBoundingClientRect();
        const across = Math.max(box.left - event.clientX, 0, event.clientX - box.right);
        const down = Math.max(box.top - event.clientY, 0, event.clientY - box.bottom);
        const distance = Math.hypot(across, down) +
          Math.hypot((box.left + box.right) / 2 - event.clientX, (box.top + box.bottom) / 2 - event.clientY) / 100;
        if (distance < least) [best, least] = [mark, distance];
      }
      if (!best) return hide();
      if (best !== last) {
        if (last) last.classList.remove("at");
        last = best;
        last.classList.add("at");
        tip.textContent = best.dataset.tip;
        tip.hidden = false;
      }
      const box = tip.getBoundingClientRect();
      tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 4))}px`;
      tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
    };
    chart.addEventListener("pointermove", show);
    chart.addEventListener("pointerdown", show);
    chart.addEventListener("pointerleave", hide);
  }
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => event.key === "Escape" && hide());
  performance.mark("usable");
})();

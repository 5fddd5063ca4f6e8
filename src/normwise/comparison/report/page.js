"use strict";
const plots = () => Array.from(document.querySelectorAll(".js-plotly-plot"));

document.querySelectorAll(".legend button").forEach((button) => {
  button.addEventListener("click", () => {
    const visible = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(visible));
    plots().forEach((plot) => {
      const traces = plot.data.flatMap((trace, i) => (trace.meta === button.dataset.norm ? [i] : []));
      if (traces.length) Plotly.restyle(plot, { visible }, traces);
    });
  });
});

// Plotly follows the window alone, but a picture also changes with the grid and with the <details> around it.
const follow = new ResizeObserver((entries) => {
  entries.forEach(({ target, contentRect }) => {
    if (contentRect.width) Plotly.Plots.resize(target.querySelector(".js-plotly-plot"));
  });
});
document.querySelectorAll("figure").forEach((figure) => follow.observe(figure));

// A press on a heading sorts by its column, a second one the other way round; what has no figure stays at the end.
document.querySelectorAll(".sortable").forEach((table) => {
  const heads = Array.from(table.tHead.rows[0].cells);
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const valueOf = ({ dataset, textContent }) => (dataset.value === undefined ? textContent : dataset.value);
      const compare = (a, b) => {
        const [x, y] = [a, b].map((row) => valueOf(row.cells[column]));
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? -order : order;
      };
      body.append(...Array.from(body.rows).sort(compare));
    });
  });
});

document.querySelectorAll("[data-save]").forEach((button) => {
  button.addEventListener("click", () => {
    const kind = button.dataset.save;
    const text = JSON.parse(document.getElementById("rows").textContent)[kind];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/json" }));
    link.download = `rows.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
});

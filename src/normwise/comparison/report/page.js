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

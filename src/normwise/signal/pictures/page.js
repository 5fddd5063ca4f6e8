"use strict";
document.querySelectorAll(".legend button").forEach((button) => {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    document.querySelectorAll(`g[data-model="${button.dataset.model}"]`).forEach((group) => {
      group.classList.toggle("hidden", !shown);
    });
  });
});

// The title of the nearest mark, which a finger or a pointer need not hit exactly.
const tip = document.getElementById("tip");
document.querySelectorAll("figure svg").forEach((picture) => {
  const marks = Array.from(picture.querySelectorAll("polygon")).filter((mark) => mark.querySelector("title"));
  const words = marks.map((mark) => {
    const title = mark.querySelector("title");
    const text = title.textContent;
    title.remove();
    mark.setAttribute("aria-label", text);
    return text;
  });
  picture.addEventListener("pointermove", (event) => {
    let nearest = -1;
    let least = 28;
    marks.forEach((mark, i) => {
      if (mark.closest(".hidden")) return;
      const box = mark.getBoundingClientRect();
      const far = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      if (far < least) [nearest, least] = [i, far];
    });
    tip.hidden = nearest < 0;
    if (nearest < 0) return;
    tip.textContent = words[nearest];
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
  picture.addEventListener("pointerleave", () => { tip.hidden = true; });
});

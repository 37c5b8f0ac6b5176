"use strict";
(() => {
  const tip = document.getElementById("tip");
  const show = (owner, x, y) => {
    tip.textContent = owner.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
    tip.style.left = Math.max(8, left) + "px";
    tip.style.top = Math.max(8, Math.min(y + 14, innerHeight - box.height - 8)) + "px";
  };
  for (const title of document.querySelectorAll("figure svg title, .gauge title")) {
    const owner = title.parentElement;
    owner.dataset.tip = title.textContent;
    title.remove();
    owner.addEventListener("pointermove", (event) => show(owner, event.clientX, event.clientY));
    owner.addEventListener("pointerleave", () => { tip.hidden = true; });
    owner.addEventListener("focus", () => {
      const box = owner.getBoundingClientRect();
      show(owner, box.right, box.top);
    });
    owner.addEventListener("blur", () => { tip.hidden = true; });
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
  for (const answers of document.querySelectorAll(".answers")) {
    const filters = answers.querySelector(".filters");
    filters.hidden = false;
    filters.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      for (const other of filters.children) other.setAttribute("aria-pressed", String(other === button));
      const wanted = button.dataset.filter;
      for (const row of answers.querySelectorAll(".exchange")) {
        row.hidden = wanted !== "all" && row.dataset.change !== wanted;
      }
      const rest = answers.querySelector("details");
      if (rest && wanted !== "all") rest.open = true;
    });
  }
  document.documentElement.dataset.ready = "yes";
})();

"use strict";
// Before/after: all images of a slider lie upon each other; the chosen two are cut off where the edge is.
for (const slider of document.querySelectorAll(".slider")) {
  const stage = slider.querySelector(".stage");
  const range = slider.querySelector("input");
  const images = [...stage.querySelectorAll("img")];
  const [width, height] = [Number(stage.dataset.width), Number(stage.dataset.height)];

  const moveEdge = () => stage.style.setProperty("--at", `${range.value}%`);

  const choose = (side) => {
    const select = slider.querySelector(`select[name="${side}"]`);
    images.forEach((image, index) => image.classList.toggle(side, String(index) === select.value));
    stage.querySelector(`.side.${side}`).textContent = select.selectedOptions[0].dataset.name;
    const sides = ["left", "right"].map((each) => stage.querySelector(`.side.${each}`).textContent);
    range.setAttribute("aria-label", `Where ${sides[0]} ends and ${sides[1]} begins, in percent from the left`);
  };

  // Enlarged by a whole number pixels stay as they are; else the browser would invent some between them.
  const fit = () => {
    const times = Math.floor(Math.min(slider.clientWidth / width, (0.8 * window.innerHeight) / height));
    stage.style.width = range.style.width = times >= 1 ? `${times * width}px` : "100%";
    for (const image of images) image.classList.toggle("whole-pixels", times >= 1);
  };

  const drag = (event) => {
    const box = stage.getBoundingClientRect();
    range.value = Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width));
    moveEdge();
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) drag(event);
  });
  range.addEventListener("input", moveEdge);
  for (const side of ["left", "right"]) {
    slider.querySelector(`select[name="${side}"]`).addEventListener("change", () => choose(side));
    choose(side);
  }
  window.addEventListener("resize", fit);
  fit();
  moveEdge();
}

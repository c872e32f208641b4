let waiting;
const turn = (text, pause) => {
  const alpha = Number(text);
  if (text === "" || !Number.isFinite(alpha)) return;
  props.value = alpha;
  trigger("input");
  clearTimeout(waiting);
  if (pause !== undefined) waiting = setTimeout(() => trigger("release"), pause);
};
element.addEventListener("input", (event) => { if (event.target.type === "range") turn(event.target.value); });
element.addEventListener("change", (event) => turn(event.target.value, 250)); // an arrow key that is held down asks once
element.addEventListener("click", (event) => {
  const tick = event.target.closest("[data-alpha]");
  if (tick) turn(tick.dataset.alpha, 0);
});

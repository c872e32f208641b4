const choose = (event) => {
  const chosen = event.target.closest("[data-position], [data-prompt]");
  if (chosen) trigger("select", { ...chosen.dataset });
};
element.addEventListener("click", choose);
element.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("[data-position]")) choose(event);
});
const mark = () => {
  for (const point of element.querySelectorAll("[data-position]")) {
    point.setAttribute("role", "button");
    point.classList.toggle("here", point.dataset.position === props.here);
  }
};
watch("here", mark);
mark();

const card = document.getElementById("card");
for (const point of document.querySelectorAll(".tr .p")) {
  const title = point.querySelector("title"), text = title.textContent;
  title.remove();
  point.setAttribute("aria-label", text);
  const show = () => {
    const place = point.querySelector(".mark").getBoundingClientRect(), [head, ...rest] = text.split("\n");
    card.replaceChildren(Object.assign(document.createElement("b"), { textContent: head }), "\n" + rest.join("\n"));
    card.hidden = false;
    const left = Math.min(place.right + 10, document.documentElement.clientWidth - card.offsetWidth - 8);
    card.style.left = Math.max(8, left) + scrollX + "px";
    card.style.top = place.top + scrollY - card.offsetHeight - 10 + "px";
  };
  const hide = () => { card.hidden = true; };
  point.addEventListener("pointerenter", show);
  point.addEventListener("focus", show);
  point.addEventListener("pointerleave", hide);
  point.addEventListener("blur", hide);
}

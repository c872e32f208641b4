element.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const line = button.parentElement.querySelector("pre");
  getSelection().selectAllChildren(line);
  if (navigator.clipboard) await navigator.clipboard.writeText(line.textContent);  // only where the browser trusts the address
  else document.execCommand("copy");
  button.textContent = "copied";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
});

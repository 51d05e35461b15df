// Without this script every direction of the gallery is shown; with it, one at a time.
const groups = [...document.querySelectorAll(".group")];
const tabs = document.querySelector(".tabs");
if (tabs && groups.length) {
  const names = [...new Set(groups.map((group) => group.dataset.direction)), "all"];
  const show = (name) => {
    for (const group of groups) group.classList.toggle("off", name !== "all" && group.dataset.direction !== name);
    for (const button of tabs.children) button.setAttribute("aria-pressed", String(button.textContent === name));
  };
  for (const name of names) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => show(name));
    tabs.append(button);
  }
  tabs.hidden = false;
  show(names[0]);
}

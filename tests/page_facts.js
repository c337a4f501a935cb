() => {
  const main = document.querySelector("main") || document.body, width = document.documentElement.clientWidth;
  const all = (what) => Array.from(main.querySelectorAll(what));
  const start = (element) => (element.innerText || "").slice(0, 60).replace(/\s+/g, " ");
  const without = (what) => {
    const copy = main.cloneNode(true);
    copy.querySelectorAll(what).forEach((element) => element.remove());
    return copy.textContent;
  };
  const text = without("pre, code, .katex, script, style");
  const prose = without("pre, .katex, script, style, details, .callout-collapse, .page-navigation");
  all("details").forEach((fold) => { fold.open = true; });
  dispatchEvent(new Event("resize"));
  const cut = [], scrolling = [], there = (element) => element.offsetParent && element.clientWidth > 1;
  const beyond = (element) => element.getBoundingClientRect().right > width + 1;
  all("pre, .katex-display").filter(there).forEach((element) => {
    if (element.scrollWidth > element.clientWidth + 1 || beyond(element)) cut.push(start(element));
  });
  all("table").filter((table) => table.offsetParent).forEach((table) => {
    let box = table.parentElement;
    while (box !== main && getComputedStyle(box).overflowX === "visible") box = box.parentElement;
    const inside = box !== main && box.scrollWidth > box.clientWidth + 1 && !beyond(box);
    const hint = box.previousElementSibling;
    if (inside) scrolling.push(start(table));
    if (inside ? !(hint && hint.matches(".scroll-hint") && hint.offsetParent) : beyond(table)) cut.push(start(table));
  });
  const unsaid = all("img").filter((image) => !(image.getAttribute("alt") || "").trim()).length
    + all("svg").filter((svg) => svg.getBoundingClientRect().width > 100 && !svg.closest("[aria-hidden=true]")
      && !svg.getAttribute("aria-label") && !svg.querySelector("title")).length;
  return {
    cut, scrolling, unsaid, text, column: main.clientWidth,
    overflow: Math.max(0, document.documentElement.scrollWidth - width),
    title: (main.querySelector("h1") || { innerText: "" }).innerText.trim(),
    words: (prose.match(/\S*\p{L}\S*/gu) || []).length,
    code: all("pre").map((element) => element.textContent).join("\n"),
    nones: all("td").filter((cell) => cell.textContent.trim() === "None").length,
    mermaid: all("pre.mermaid").length,
    broken: all("img").filter((image) => image.complete && !image.naturalWidth).length,
  };
}

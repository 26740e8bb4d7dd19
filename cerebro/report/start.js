// Everything is drawn once, and again when its width or its colours change.

startTables();
startCurves();
startAxes();
startGantt();
redraw();

let waiting = 0, widthBefore = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === widthBefore) return;
  widthBefore = innerWidth;
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(redraw);
});
darkness.addEventListener("change", redraw);

// On paper all is light, whatever the screen is.
function onPaper(yes) {
  printing = yes;
  redraw();
}
addEventListener("beforeprint", () => onPaper(true));
addEventListener("afterprint", () => onPaper(false));

document.documentElement.dataset.drawnMs = Math.round(performance.now());

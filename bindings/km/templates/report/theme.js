document.documentElement.classList.add("js");
try {
  const kept = localStorage.getItem("km-theme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
} catch (refused) { /* no storage here: the reader's setting holds */ }

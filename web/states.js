// What a film on disk is, on the nodes that keep and take up films: a picture, its length, its last words, its size.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const LOAD = "CausalCineLoadState";
const SAVE = "CausalCineSaveState";
const HEIGHT = 132;
const WIDTH = 340;
const NONE_YET = "none yet: CausalCine Save State makes one";

const style = document.createElement("style");
style.textContent = `
.causalcine-state { display: flex; gap: 10px; box-sizing: border-box; height: 100%; padding: 6px; overflow: hidden;
  font: 13px/1.35 system-ui, sans-serif; color: var(--input-text, #ddd); background: var(--comfy-input-bg, #222); border-radius: 6px; }
.causalcine-state img { height: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 4px; flex: none; background: #000; }
.causalcine-state div { min-width: 0; display: flex; flex-direction: column; gap: 2px; }
.causalcine-state b, .causalcine-state small { flex: none; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.causalcine-state small { font-size: 12px; opacity: 0.85; margin-top: auto; }
.causalcine-state span { overflow: hidden; display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow-wrap: anywhere; }`;
document.head.append(style);

const ask = async (path) => {
  const answer = await api.fetchApi(path);
  return answer.json();
};

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

// --- the card

function describe(told) {
  const seconds = told.seconds == null ? plural(told.chunks, "chunk") : `${told.seconds.toFixed(1)} s`;
  return {
    head: `${seconds}, ${plural(told.shots, "shot")}`,
    words: told.words,
    foot: told.memory ? `${told.size}, ${told.memory} of it memory` : `${told.size}, without memory`,
  };
}

function show(node, { head = "", words = "", foot = "" }, picture = "") {
  const [image, text] = node.causalcineCard.children;
  image.src = picture;
  image.alt = picture ? `last frame: ${words}` : "";
  image.style.display = picture ? "" : "none";
  text.replaceChildren(
    ...[["b", head], ["span", words], ["small", foot]].map(([tag, line]) => {
      const element = document.createElement(tag);
      element.textContent = element.title = line;
      return element;
    }),
  );
}

async function showFile(node, name) {
  node.causalcineShown = name;
  if (!name || name === NONE_YET) {
    show(node, { words: "No state file yet in ComfyUI's output and temp folders." });
    return;
  }
  const told = await ask(`/causalcine/state?name=${encodeURIComponent(name)}`);
  if (node.causalcineShown !== name) return; // another one was chosen meanwhile
  if (told.error) show(node, { words: told.error });
  else show(node, describe(told), told.picture);
}

function addCard(node) {
  const element = document.createElement("div");
  element.className = "causalcine-state";
  element.append(document.createElement("img"), document.createElement("div"));
  node.causalcineCard = element;
  const widget = node.addDOMWidget("causalcine_card", "causalcine_card", element, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT,
  });
  widget.serialize = false; // a workflow's values keep their places
  node.setSize([Math.max(WIDTH, node.size[0]), Math.max(node.size[1], node.computeSize()[1])]);
}

// --- the list of files

const loaders = new Set();
const chooser = (node) => node.widgets?.find((widget) => widget.name === "state_file");

async function refresh() {
  if (!loaders.size) return;
  const names = await ask("/causalcine/states");
  for (const node of loaders) {
    const widget = chooser(node);
    if (!widget) continue;
    widget.options.values = names.length ? names : [NONE_YET];
    if (widget.value === NONE_YET && names.length) widget.value = names[0];
    void showFile(node, widget.value);
  }
}

for (const event of ["execution_success", "execution_error", "execution_interrupted"])
  api.addEventListener(event, () => void refresh());

api.addEventListener("causalcine.kept", ({ detail }) => {
  app.extensionManager?.toast?.add({ severity: "info", summary: "CausalCine kept a film", detail: detail.text, life: 20000 });
  void refresh();
});

app.registerExtension({
  name: "CausalCine.States",
  nodeCreated(node) {
    if (node.comfyClass === SAVE) {
      addCard(node);
      show(node, { words: "What was kept is shown here." });
      const before = node.onExecuted;
      node.onExecuted = function (message) {
        before?.apply(this, arguments);
        const file = message?.states?.[0];
        if (file) void showFile(node, file.name);
      };
    }
    if (node.comfyClass !== LOAD) return;
    addCard(node);
    loaders.add(node);
    const widget = chooser(node);
    const chosen = widget?.callback;
    if (widget)
      widget.callback = function (value) {
        chosen?.apply(this, arguments);
        void showFile(node, value);
      };
    const removed = node.onRemoved;
    node.onRemoved = function () {
      loaders.delete(node);
      removed?.apply(this, arguments);
    };
    requestAnimationFrame(() => void refresh()); // a loaded node has its value by then
  },
  loadedGraphNode(node) {
    if (node.comfyClass === LOAD) void showFile(node, chooser(node)?.value);
  },
});

// A film is continued from the states of earlier samplers, so a seed that changes by itself would make everything again:
// the seed of a new sampler stays as it is until the user says otherwise. Loaded workflows keep what they say.
import { app } from "../../scripts/app.js";

app.registerExtension({
  name: "CausalCine.FixedSeed",
  nodeCreated(node) {
    if (node.comfyClass !== "CausalCineSampler") return;
    const control = node.widgets?.find((widget) => widget.name === "control_after_generate");
    if (control) control.value = "fixed";
  },
});

// The classic canvas hides a node's advanced inputs where their widgets say so, and does not read that off their definition.
// What a loaded workflow has changed is shown, and the strength of a video where there is one.
const loaded = new WeakSet();
app.registerExtension({
  name: "CausalCine.AdvancedInputs",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("CausalCine")) return;
    const advanced = (node.widgets ?? []).filter((widget) => widget.options?.advanced);
    for (const widget of advanced) {
      widget.advanced = true;
      widget.computeSize = () => [0, node.showAdvanced ? LiteGraph.NODE_WIDGET_HEIGHT : -4]; // or it takes room unseen
    }
    // the page sizes a new node after this, for all its widgets; a loaded one keeps its size
    const fit = () => loaded.has(node) || node.setSize([node.size[0], node.computeSize()[1]]);
    if (advanced.length) requestAnimationFrame(() => requestAnimationFrame(fit));
    const changed = node.onConnectionsChange;
    node.onConnectionsChange = function (kind, slot, connected, link, input) {
      if (connected && link && input?.name === "video") node.showAdvanced = true;
      return changed?.apply(this, arguments);
    };
  },
  loadedGraphNode(node) {
    if (!node.comfyClass?.startsWith("CausalCine")) return;
    loaded.add(node);
    const inputs = node.constructor.nodeData?.input?.optional ?? {};
    const changed = (widget) => widget.advanced && widget.value !== (inputs[widget.name]?.[1]?.default ?? widget.value);
    const restyles = node.inputs?.some((input) => input.name === "video" && input.link != null);
    if (restyles || node.widgets?.some(changed)) node.showAdvanced = true;
  },
});

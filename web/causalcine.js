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

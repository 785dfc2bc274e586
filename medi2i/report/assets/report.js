"use strict";
// Unpacks the viewer and the volumes from this page and shows them in step. Where that fails the
// pictures stay, with a sentence that says why.
(() => {
  const find = (id) => document.getElementById(id);
  const root = document.documentElement;

  const BLACK = [0.047, 0.051, 0.063, 1];
  const COLOURS = {
    image: { R: [0, 255], G: [0, 255], B: [0, 255], A: [255, 255], I: [0, 255] },
    difference: { R: [92, 18, 255], G: [184, 18, 158], B: [255, 18, 56], A: [255, 255, 255],
      I: [0, 128, 255] },
    map: { R: [0, 87, 188, 249, 252], G: [0, 16, 55, 142, 255], B: [4, 110, 84, 9, 164],
      A: [255, 255, 255, 255, 255], I: [0, 64, 128, 192, 255] },
  };
  COLOURS.probability = COLOURS.map;

  const bytes = (id) => Uint8Array.from(atob(find(id).textContent), (c) => c.charCodeAt(0));

  function hasWebGL() {
    const context = document.createElement("canvas").getContext("webgl2");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return context !== null;
  }

  async function viewer() {
    const unpacked = new Blob([bytes("viewer-code")]).stream()
      .pipeThrough(new DecompressionStream("gzip"));
    const code = await new Response(unpacked).blob();
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    try {
      return await import(address);
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  async function start() {
    if (!find("viewer-code")) return;
    if (!hasWebGL()) throw new Error("no WebGL 2");
    const { Niivue, NVImage } = await viewer();
    const plan = JSON.parse(find("plan").textContent);
    find("live").hidden = false;

    const shown = []; // the viewers that move in step

    async function view(canvas, panels) {
      const one = new Niivue({
        backColor: BLACK, crosshairColor: [0.47, 0.67, 0.78, 0.5], crosshairWidth: 1,
        isRadiologicalConvention: true, sagittalNoseLeft: true, multiplanarShowRender: 0,
        isColorbar: false, dragAndDropEnabled: false, loadingText: "", logLevel: "error",
        isCornerOrientationText: true,
      });
      for (const [name, map] of Object.entries(COLOURS)) one.addColormap(`report-${name}`, map);
      await one.attachToCanvas(canvas);
      one.setSliceType(Number(find("plane").value));
      await fill(one, panels);
      one.onLocationChange = () => follow(one);
      shown.push(one);
      return one;
    }

    async function fill(one, panels) {
      for (const volume of [...one.volumes].reverse()) one.removeVolume(volume);
      for (const number of panels) {
        const { kind, window: [low, high] } = plan[number];
        one.addVolume(await NVImage.loadFromBase64({
          base64: find(`volume-${number}`).textContent, name: "volume.nii.gz",
          colormap: `report-${kind}`, cal_min: low, cal_max: high,
        }));
      }
    }

    function follow(leader) {
      const place = [...leader.scene.crosshairPos];
      for (const one of shown) {
        if (one !== leader) {
          one.scene.crosshairPos = [...place];
          one.drawScene();
        }
      }
      tell(leader);
    }

    // Where the crosshair is, in millimetres, and what every volume holds there.
    function tell(leader) {
      const place = leader.scene.crosshairPos;
      find("place").value = [...leader.frac2mm(place)].slice(0, 3)
        .map((mm, axis) => `${"RAS"[axis]} ${mm.toFixed(1)}`).join("  ") + " mm";
      for (const slider of document.querySelectorAll(".place")) {
        slider.value = String(Math.round(1000 * place[slider.dataset.axis]));
      }
      plan.forEach((_, number) => {
        const volume = panels[number].volumes[0];
        const value = volume.getValue(...panels[number].frac2vox(place));
        find(`panel-${number}`).closest("figure").querySelector("output").value =
          Number(value.toPrecision(4));
      });
    }

    const panels = [];
    for (const number of plan.keys()) {
      panels.push(await view(find(`panel-${number}`), [number]));
    }
    const blend = find("blend");
    if (blend) {
      const choice = () => [Number(find("under").value), Number(find("over").value)];
      const blended = await view(find("blended"), choice());
      const mix = () => blended.setOpacity(1, blend.value / 100);
      blend.addEventListener("input", mix);
      for (const id of ["under", "over"]) {
        find(id).addEventListener("change", async () => {
          await fill(blended, choice());
          mix();
        });
      }
      mix();
    }

    find("plane").addEventListener("change", (event) => {
      for (const one of shown) one.setSliceType(Number(event.target.value));
    });
    for (const slider of document.querySelectorAll(".place")) {
      slider.addEventListener("input", () => {
        panels[0].scene.crosshairPos[slider.dataset.axis] = slider.value / 1000;
        panels[0].drawScene();
        follow(panels[0]);
      });
    }
    // To a place in millimetres, such as a lesion's centre.
    const go = (place) => {
      panels[0].scene.crosshairPos = [...panels[0].mm2frac(place.split(" ").map(Number))];
      panels[0].drawScene();
      follow(panels[0]);
    };
    for (const button of document.querySelectorAll(".go")) {
      button.addEventListener("click", () => {
        go(button.dataset.at);
        find("live").scrollIntoView();
      });
    }
    if (find("live").dataset.at) go(find("live").dataset.at);
    else follow(panels[0]);
    find("still").open = false;
    find("still-why").hidden = true;
    root.dataset.viewer = "ready";
  }

  start().catch((error) => {
    if (find("live")) find("live").hidden = true;
    find("still-why").textContent += ` (${error.message})`;
    root.dataset.viewer = "failed";
  });
})();

/** The user interface: where images come from, settings, results, downloads. */

import { classesIn, confident, describe, draw, objectColor, preparedMap } from "./drawing.js";
import { loadNetwork, mapNames, runLengths } from "./network.js";

const $ = (id) => document.getElementById(id);
const view = { confidence: 0.3, keypoint: 0.1, mask: 0.5, opacity: 0.45, shown: new Set() };

let network = null;
let current = null; // {name, image, result, times} of what is shown
let camera = null; // the webcam's MediaStream
let waiting = Promise.resolve(); // the network runs one image at a time

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function swatch(color) {
  const made = element("span", { className: "swatch" });
  made.style.background = color;
  return made;
}

function showError(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

/** Run `action` and show its error, if it has one, as a sentence. */
async function attempt(action) {
  try {
    showError("");
    await action();
  } catch (error) {
    showError(error.message);
  }
}

// ---------------------------------------------------------------- results

function showTimes(times) {
  const total = Object.values(times).reduce((sum, time) => sum + time, 0);
  const rows = Object.entries({ ...times, total }).flatMap(([name, time]) => [
    element("dt", { textContent: name }),
    element("dd", { textContent: `${time.toFixed(1)} ms` }),
  ]);
  $("times").replaceChildren(...rows);
}

const toXywh = (box) => [box[0], box[1], box[2] - box[0], box[3] - box[1]];

function objectTable(chosen) {
  if (!chosen.length) return [];
  const heads = ["Object", "Score", "x, y, width, height"];
  const head = heads.map((textContent) => element("th", { textContent, scope: "col" }));
  const rows = chosen.map(({ box, score, classId }, index) => {
    const name = network.info.objects.class_names[classId] ?? classId;
    const numbers = [score.toFixed(2), toXywh(box).map(Math.round).join(", ")];
    return element(
      "tr",
      {},
      element("td", {}, swatch(objectColor(index)), name),
      ...numbers.map((textContent) => element("td", { textContent })),
    );
  });
  return [element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)];
}

/** The classes of the maps that are shown, with their share of the image. */
function legend(result) {
  const lines = [];
  for (const name of Object.keys(result.maps).filter((one) => view.shown.has(one))) {
    const { classes } = preparedMap(result, name, network.info, view.mask);
    for (const { label, color, pixels } of classesIn(classes, name, network.info)) {
      const share = ((pixels / classes.length) * 100).toFixed(1);
      lines.push(element("li", {}, swatch(color), `${label}: ${share} % of the image`));
    }
  }
  const labels = network.info.maps.image_labels?.class_names ?? [];
  (result.imageLabels ?? []).forEach((probability, id) => {
    if (probability < view.confidence) return;
    lines.push(element("li", {}, `Image: ${labels[id] ?? id} ${Math.round(probability * 100)} %`));
  });
  return lines;
}

function show() {
  if (!current) return;
  const { image, result } = current;
  const start = performance.now();
  draw($("canvas"), image, result, network.info, view);
  const chosen = confident(result.objects, view.confidence);
  const lines = legend(result);
  showTimes({ ...current.times, drawing: performance.now() - start });
  $("objects").replaceChildren(...objectTable(chosen));
  $("legend").replaceChildren(...lines);
  const found = chosen.map((one) => describe(one, network.info)).join(", ");
  const best = result.objects[0] ? `; best score ${result.objects[0].score.toFixed(2)}` : "";
  const none = `no object above the confidence threshold${best}`;
  const objects = network.info.objects ? `: ${found || none}` : "";
  const text = `${current.name}, ${result.imageSize[1]} x ${result.imageSize[0]} pixels${objects}`;
  $("canvas").setAttribute("aria-label", text);
  $("status").textContent = camera ? "Webcam" : text; // a webcam would be read out without end
  $("canvas").hidden = false;
  $("empty").hidden = true;
  $("results").hidden = false;
  $("save-picture").disabled = $("save-json").disabled = false;
}

/** Everything that is shown, in pixels of the image, as JSON. */
function resultJson() {
  const { info } = network;
  const { result, name } = current;
  const { confidence, keypoint, mask } = view;
  const maps = Object.keys(result.maps).map((map) => {
    const { classes } = preparedMap(result, map, info, mask);
    const segments = classesIn(classes, map, info).map(({ id, label }) => {
      const counts = runLengths(classes, result.imageSize, id);
      return { category: label, segmentation: { size: result.imageSize, counts } };
    });
    return [map, segments];
  });
  return {
    image: name,
    width: result.imageSize[1],
    height: result.imageSize[0],
    network: info.config,
    thresholds: { confidence, keypoint, mask },
    objects: confident(result.objects, confidence).map(({ box, score, classId, keypoints }) => ({
      category_id: info.objects.category_ids[classId],
      category: info.objects.class_names[classId],
      score,
      bbox: toXywh(box),
      // COCO's are indices of pixels: 0, 0 is the middle of the first one.
      ...(keypoints.length
        ? { keypoints: keypoints.flatMap(([x, y, sure]) => [x - 0.5, y - 0.5, sure]) }
        : {}),
    })),
    maps: Object.fromEntries(maps),
    image_labels: result.imageLabels,
    times_ms: current.times,
  };
}

function save(blob, ending) {
  const link = element("a", { href: URL.createObjectURL(blob) });
  link.download = `${current.name.replace(/\.[^.]*$/, "")}_result.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// ---------------------------------------------------------------- images

/** Run the network on anything that a canvas can draw, and show the result. */
function process(image, [height, width], name, decoding) {
  const done = waiting.then(async () => {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d", { colorSpace: "srgb", willReadFrequently: true });
    const start = performance.now();
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    const decode = decoding + performance.now() - start;
    const result = await network.run(data, [height, width]);
    current = { name, image: canvas, result, times: { decode, ...result.times } };
    show();
  });
  waiting = done.catch(() => {});
  return done;
}

async function openFile(file) {
  stopCamera();
  const start = performance.now();
  let image;
  try {
    // Stored colours as they are, as Pillow reads them; EXIF's orientation is applied.
    const options = { premultiplyAlpha: "none", colorSpaceConversion: "none" };
    image = await createImageBitmap(file, options);
  } catch (error) {
    const message = `${file.name} is not an image that this browser can read`;
    throw new Error(message, { cause: error });
  }
  $("status").textContent = `${file.name}: the network is running …`;
  try {
    await process(image, [image.height, image.width], file.name, performance.now() - start);
  } catch (error) {
    throw new Error(`${file.name}: ${error.message}`, { cause: error });
  } finally {
    image.close();
  }
}

function openFiles(files) {
  const images = [...files];
  if (images.length) attempt(() => openFile(images[0]));
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  $("webcam").textContent = "Use webcam";
}

async function webcamStream() {
  $("webcam").disabled = true; // while the browser asks for permission
  try {
    return await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    // Only secure pages have `mediaDevices`.
    const reason = isSecureContext ? error.message : "browsers give it to https and localhost only";
    throw new Error(`No webcam can be used: ${reason}`, { cause: error });
  } finally {
    $("webcam").disabled = false;
  }
}

async function startCamera() {
  const stream = await webcamStream();
  camera = stream;
  $("webcam").textContent = "Stop webcam";
  const video = element("video", { srcObject: stream, muted: true, playsInline: true });
  try {
    await video.play();
    while (camera === stream && stream.active) {
      await process(video, [video.videoHeight, video.videoWidth], "webcam", 0);
      await new Promise(requestAnimationFrame);
    }
    if (camera === stream) throw new Error("The webcam was disconnected");
  } finally {
    if (camera === stream) stopCamera();
  }
}

// ---------------------------------------------------------------- settings

function addSwitch(name, label) {
  view.shown.add(name);
  const box = element("input", { type: "checkbox", checked: true, id: `show-${name}` });
  box.addEventListener("change", () => {
    view.shown[box.checked ? "add" : "delete"](name);
    show();
  });
  $("tasks").append(element("label", {}, box, label));
}

function addSlider(key, label) {
  const number = element("output", { textContent: view[key].toFixed(2) });
  const slider = element("input", { type: "range", min: 0, max: 1, step: 0.01, id: key });
  slider.value = view[key];
  slider.addEventListener("input", () => {
    view[key] = Number(slider.value);
    number.textContent = view[key].toFixed(2);
    show();
  });
  $("sliders").append(element("label", { className: "slider" }, label, slider, number));
}

function addSettings(info) {
  const { objects, outputs, draw: thresholds } = info;
  view.confidence = thresholds.confidence_threshold;
  view.keypoint = thresholds.keypoint_threshold;
  view.mask = thresholds.mask_threshold;
  const hasKeypoints = objects?.keypoint_names.length > 0;
  const maps = mapNames(info);
  if (objects?.draw_boxes) addSwitch("boxes", "Boxes");
  if (hasKeypoints) addSwitch("keypoints", "Keypoints");
  for (const name of maps) addSwitch(name, name === "sem_seg" ? "Segmentation" : name);
  if (objects || outputs.image_labels) addSlider("confidence", "Confidence");
  if (hasKeypoints) addSlider("keypoint", "Keypoints");
  if (maps.length) {
    addSlider("mask", "Masks");
    addSlider("opacity", "Opacity");
  }
}

function listen() {
  $("open").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => {
    openFiles($("file").files);
    $("file").value = ""; // the same file may be chosen again
  });
  $("webcam").addEventListener("click", () => (camera ? stopCamera() : attempt(startCamera)));
  document.addEventListener("paste", (event) => openFiles(event.clipboardData.files));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    openFiles(event.dataTransfer.files);
  });
  $("save-picture").addEventListener("click", () => $("canvas").toBlob((b) => save(b, "png")));
  $("save-json").addEventListener("click", () =>
    save(new Blob([JSON.stringify(resultJson(), null, 1)], { type: "application/json" }), "json"),
  );
}

await attempt(async () => {
  $("hint").textContent = "Loading the network …";
  $("progress").hidden = false;
  try {
    network = await loadNetwork();
  } catch (error) {
    $("hint").textContent = "There is no network to run.";
    throw error;
  } finally {
    $("progress").hidden = true;
  }
  const { info, threads } = network;
  const tasks = [...new Set(Object.values(info.outputs).map(({ task }) => task))].join(", ");
  const workers = threads === 1 ? "1 thread" : `${threads} threads`;
  $("network").textContent = `${info.config} · ${tasks} · ${workers}`;
  $("hint").textContent = "Drop an image here, paste one, or open one with the button above.";
  $("open").disabled = $("webcam").disabled = false;
  addSettings(info);
  listen();
});

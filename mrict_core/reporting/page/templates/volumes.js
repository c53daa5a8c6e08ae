// ---------------------------------------------------------------- volumes of the test patients
const patients = json("data-patients") || [];
const arrived = new Map(); // patient => { facts, block(kind) => base64 }
const cached = new Map(); // patient/kind => promise of its voxels

// Called by the files beside the page. A script tag also works where the page was opened from a disk.
window.mrictPatient = (name, facts, blocks) => arrived.set(name, { facts, block: (kind) => blocks[kind] });

const fetchPatient = (entry) => new Promise((resolve, reject) => {
  if (!entry.file) arrived.set(entry.patient, { facts: entry.facts, block: (kind) => document.getElementById(`block-${entry.patient}/${kind}`).textContent });
  if (arrived.has(entry.patient)) { resolve(arrived.get(entry.patient)); return; }
  const script = make("script", { src: entry.file });
  const missing = () => reject(new Error(`${entry.patient}: cannot read ${entry.file} beside this page. Keep the folder with the page; the patients named above need no file.`));
  script.addEventListener("load", () => (arrived.has(entry.patient) ? resolve(arrived.get(entry.patient)) : missing()));
  script.addEventListener("error", missing);
  document.head.append(script);
});

const voxels = (patient, kind) => {
  const id = `${patient}/${kind}`;
  if (!cached.has(id)) cached.set(id, unpack(arrived.get(patient).block(kind)).then((bytes) => (kind === "mr" || kind === "mask" ? bytes : toHu(bytes))));
  return cached.get(id);
};
// int16 in steps of 2 HU, all low bytes first
const toHu = (bytes) => {
  const half = bytes.length / 2, hu = new Int16Array(half);
  for (let i = 0; i < half; i += 1) hu[i] = ((bytes[i] | (bytes[half + i] << 8)) << 16 >> 16) * 2;
  return hu;
};

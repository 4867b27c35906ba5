// Files out of a drop, a folder button or a paste, each with the path it had in its folder.

/** The files of a DataTransfer, folders walked: [{file, path}], and the entries that could not be read: [{name, reason}]. */
export async function filesOf(transfer) {
  const found = [];
  const failed = [];
  // The list is emptied as soon as the event is over: entries are taken before anything is awaited.
  const entries = [...transfer.items]
    .filter((item) => item.kind === "file")
    .map((item) => item.webkitGetAsEntry?.() ?? item.getAsFile());
  for (const entry of entries) await walk(entry, "", found, failed);
  return { files: found, failed };
}

/** The files of an <input type="file">, with webkitdirectory or without. */
export function filesOfInput(input) {
  return [...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

async function walk(entry, folder, found, failed) {
  if (!entry) return;
  if (entry instanceof File) {
    found.push({ file: entry, path: entry.name });
    return;
  }
  const path = folder + entry.name;
  try {
    if (entry.isFile) {
      found.push({ file: await new Promise((done, fail) => entry.file(done, fail)), path });
    } else if (entry.isDirectory && !entry.name.startsWith(".")) {
      const reader = entry.createReader();
      for (;;) {
        // A reader gives at most a hundred at a time, and nothing at the end.
        const some = await new Promise((done, fail) => reader.readEntries(done, fail));
        if (!some.length) break;
        for (const inner of some) await walk(inner, `${path}/`, found, failed);
      }
    }
  } catch (error) {
    failed.push({ name: path, reason: error.message });
  }
}

// What the frame knows of the server, and the frame's own moves.

import { api } from "./api.js";
import { cell, house, isNarrow, memory, railFolded, railOpen } from "./state.js";

export const collections = cell([]); // as /kb lists them

/** Ask the server how it is: its version, models, collections. Silent where it cannot be reached: the frame says so. */
export async function refreshHouse() {
  try {
    const [status, shelves] = await Promise.all([api.get("/api/hornbook/status"), api.get("/kb")]);
    house.set(status);
    collections.set(shelves.collections);
  } catch (error) {
    if (error.status) console.info(error.what);
  }
}

export function toggleRail() {
  if (isNarrow()) {
    railOpen.set((open) => !open);
    return;
  }
  railFolded.set((folded) => !folded);
  memory.set("rail-folded", railFolded.get());
}

// From a shelf to the thread: a new chat with a model, or over a collection.

import { refreshHouse } from "../house.js";
import { go } from "../state.js";
import { open, setSettings } from "../thread.js";

/** settings: {model} or {collection}. */
export async function chatWith(settings) {
  await Promise.all([open(null), refreshHouse()]);
  setSettings(settings);
  go("/");
}

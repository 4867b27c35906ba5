// Files that were dropped where there was no collection yet, for the view that opens next.

const waiting = new Map();

export function hand(collection, files) {
  waiting.set(collection, files);
}

/** What waits for that collection, once. */
export function take(collection) {
  const files = waiting.get(collection);
  waiting.delete(collection);
  return files ?? null;
}

"""Floor 3: streams of Examples become Batches. Read, clean, deduplicate, mix, encode, pack, collate."""
